"""Arms of an experiment compared: click rate and revenue a thousand impressions, with intervals by user, and whether
users were shared among the arms as they should have been.

Users, not impressions, were drawn: one user's impressions are alike. So a rate is a ratio of sums over users, and its
error is that of the sums (the delta method; Deng, Knoblich and Lu, KDD 2018). Pure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import chisquare  # type: ignore[import-untyped]

from msd.feedback.files import FeedbackError

Floats = NDArray[np.float64]
_Z95 = 1.959963984540054
METRICS = ("ctr", "rpm")
PER = {"ctr": 1.0, "rpm": 1_000.0}


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    ci95: tuple[float, float]

    def at(self, z: float) -> "Estimate":
        """Return the figure with an interval of `z` standard errors on each side in place of 1.96."""
        low, high = ((end - self.value) * z / _Z95 + self.value for end in self.ci95)
        return Estimate(self.value, (low, high))


class ArmDifference(NamedTuple):
    """Difference of an arm from the champion: absolute, relative (None if the champion's figure is 0), and p (None if
    unknown)."""

    absolute: Estimate
    relative: Estimate | None
    p: float | None


def plain(document: object) -> object:
    """Return named tuples as objects, and numbers that could not be estimated as null: JSON has nothing else."""
    if isinstance(document, dict):
        return {name: plain(value) for name, value in document.items()}
    if isinstance(document, tuple | list):
        return plain(document._asdict()) if hasattr(document, "_asdict") else [plain(one) for one in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


class ArmFigures(NamedTuple):
    """Figures of one arm. `predicted_over_observed` is None without clicks; `unpriced_clicks` had no bid."""

    users: int
    impressions: int
    clicks: int
    revenue: float
    unpriced_clicks: int
    predicted_over_observed: float | None
    figures: dict[str, Estimate]
    differences: dict[str, ArmDifference] | None


class RatioMismatch(NamedTuple):
    """Pearson's test of the arms' numbers of users against their shares. `p` is None if these are unknown."""

    expected: dict[str, float] | None
    observed: dict[str, int]
    p: float | None
    told: str


class ArmSums(NamedTuple):
    """Arms, the champion first, and sums by user and arm [U, A]: of impressions, requests, predicted clicks, and each
    metric's numerator."""

    arms: list[str]
    tables: dict[str, Floats]

    @classmethod
    def of(cls, impressions: pl.DataFrame, champion: str) -> "ArmSums":
        """Raises FeedbackError if the champion has no impression."""
        arms = impressions["arm"].unique().sort().to_list()
        if champion not in arms:
            raise FeedbackError(f"no impression belongs to the arm {champion!r}; there are: {', '.join(arms)}")
        arms = [champion, *(arm for arm in arms if arm != champion)]
        sums = impressions.group_by("user_id", "arm").agg(
            pl.len().cast(pl.Float64).alias("impressions"),
            pl.col("request_id").n_unique().cast(pl.Float64).alias("requests"),
            pl.col("pctr").sum().alias("predicted"),
            pl.col("label").cast(pl.Float64).sum().alias("ctr"),
            earned(impressions).sum().alias("rpm"),
        )
        users = {user: place for place, user in enumerate(sums["user_id"].unique().to_list())}
        rows = np.array([users[user] for user in sums["user_id"].to_list()], np.int64)
        columns = np.array([arms.index(arm) for arm in sums["arm"].to_list()], np.int64)
        tables = {}
        for name in ("impressions", "requests", "predicted", *METRICS):
            tables[name] = np.zeros((len(users), len(arms)))
            tables[name][rows, columns] = sums[name].to_numpy()
        return cls(arms, tables)

    def capped(self, times: float) -> "ArmSums":
        """Return the sums where a user weighs no more than `times` the median user's requests would: bots ask often."""
        requests = self.tables["requests"].sum(1)
        scale = np.minimum(1.0, times * np.median(requests) / requests)[:, None]
        return ArmSums(self.arms, {name: scale * table for name, table in self.tables.items()})

    def ratios(self, of: str, below: str = "impressions", per: float = 1.0) -> "Ratios":
        """Return the ratio of two sums by arm, with its error over users."""
        return Ratios.of(self.tables[of], self.tables[below], per)


def ratio_of_medians(old: Sequence[float], new: Sequence[float]) -> Estimate:
    """Return the median of `new` ÷ that of `old`, with the interval of both medians' order statistics."""
    (old_low, old_mid, old_high), (new_low, new_mid, new_high) = (
        np.quantile(one, np.clip([0.5 - half, 0.5, 0.5 + half], 0, 1))
        for one, half in ((one, _Z95 / 2 / math.sqrt(len(one))) for one in (old, new))
    )
    return Estimate(float(new_mid / old_mid), (float(new_low / old_high), float(new_high / old_low)))


def earned(impressions: pl.DataFrame) -> pl.Expr:
    """Return what each impression was paid: its bid by thousand, or for its click, or for its click's conversion."""
    converted = pl.col("conversion") if "conversion" in impressions.columns else pl.lit(0)
    paid_for = pl.col("pricing").replace_strict({"cpm": 0, "cpc": 1, "cpa": 2}, return_dtype=pl.Int8)
    outcome = pl.when(paid_for == 0).then(0.001).when(paid_for == 1).then(pl.col("label")).otherwise(converted)
    return outcome * pl.col("bid").fill_null(0.0)


def compare(impressions: pl.DataFrame, champion: str) -> dict[str, ArmFigures]:
    """Return all arms' figures, champion first, and their differences from it."""
    arms, sums = made = ArmSums.of(impressions, champion)
    measured = {name: made.ratios(name, per=PER[name]) for name in METRICS}
    found = {}
    for place, arm in enumerate(arms):
        own = impressions.filter(pl.col("arm") == arm)
        clicked = own.filter(pl.col("label") == 1)
        found[arm] = ArmFigures(
            users=int((sums["impressions"][:, place] > 0).sum()),
            impressions=own.height,
            clicks=clicked.height,
            revenue=float(own.select(earned(own).sum()).item()),
            unpriced_clicks=clicked["bid"].null_count(),
            predicted_over_observed=float(own["pctr"].sum()) / clicked.height if clicked.height else None,
            figures={name: ratios.estimate(place) for name, ratios in measured.items()},
            differences={name: ratios.difference(place) for name, ratios in measured.items()} if place else None,
        )
    return found


class Ratios(NamedTuple):
    """Ratios [A] of sums over users, and each user's part in their errors [U, A]."""

    values: Floats
    parts: Floats

    @classmethod
    def of(cls, totals: Floats, impressions: Floats, per: float = 1.0) -> "Ratios":
        """Return the ratios of totals to impressions [U, A] of U users, each in one arm, or, rarely, in several."""
        below = impressions.sum(0)
        values = per * totals.sum(0) / below
        users = (impressions > 0).sum(0)
        # n users' residuals have n − 1 degrees of freedom.
        scale = np.sqrt(users / np.maximum(users - 1, 1))
        return cls(values, scale * (per * totals - values * impressions) / below)

    def estimate(self, arm: int) -> Estimate:
        """Return the figure of an arm."""
        return _estimate(self.values[arm], self.parts[:, arm])

    def difference(self, arm: int) -> ArmDifference:
        """Return the difference of an arm from the first. A user in both counts in both."""
        ours, theirs = self.values[arm], self.values[0]
        absolute = _estimate(ours - theirs, self.parts[:, arm] - self.parts[:, 0])
        relative = None
        if theirs > 0:
            relative = _estimate(ours / theirs - 1, self.parts[:, arm] / theirs - ours * self.parts[:, 0] / theirs**2)
        error = _error(self.parts[:, arm] - self.parts[:, 0])
        p = math.erfc(abs(absolute.value) / error / math.sqrt(2)) if error > 0 else None
        return ArmDifference(absolute, relative, p)


def _error(parts: Floats) -> float:
    return float(np.sqrt((parts**2).sum()))


def _estimate(value: float, parts: Floats) -> Estimate:
    error = _error(parts)
    return Estimate(float(value), (float(value - _Z95 * error), float(value + _Z95 * error)))


def ratio_mismatch(impressions: pl.DataFrame, shares: Mapping[str, float] | None) -> RatioMismatch:
    """Compare users by arm with `shares`, or with those in the log, where they did not change."""
    counts = impressions.group_by("arm").agg(pl.col("user_id").n_unique().alias("users")).sort("arm")
    observed: dict[str, int] = dict(counts.iter_rows())
    if shares is None:
        logged = impressions.select("arm", "arm_share").unique()
        if logged.height != logged["arm"].n_unique():
            return RatioMismatch(None, observed, None, "the arms' shares changed meanwhile; give them by --shares")
        shares = dict(logged.iter_rows())
    if unknown := sorted(set(observed) - set(shares)):
        raise FeedbackError(f"--shares lacks {', '.join(unknown)}")
    total = sum(shares.values())
    if total <= 0 or any(share < 0 or not math.isfinite(share) for share in shares.values()):
        raise FeedbackError("--shares must be non-negative numbers, at least one above 0")
    expected = {arm: share / total for arm, share in shares.items()}
    if any(observed.get(arm) for arm, share in expected.items() if not share):
        return RatioMismatch(expected, observed, 0.0, "")
    users = sum(observed.values())
    pairs = [(observed.get(arm, 0), share * users) for arm, share in expected.items() if share]
    p = float(chisquare(*zip(*pairs, strict=True)).pvalue) if len(pairs) > 1 else None
    return RatioMismatch(expected, observed, p, "")
