"""One stage of a rollout: its two arms are compared by revenue per request at times that are set before, until one is
surely better. Does not know files, services or clocks.
"""

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from msd.feedback.arms import ArmDifference, ArmSums, Estimate, ratio_of_medians
from msd.feedback.gate import Check, Gate, Outcome, above_zero, at_most, factor_of
from msd.nightly.config import RolloutConfig

OLD, NEW = "champion", "new"
StageDecision = Literal["grow", "stop", "continue"]
_GAIN = "gain of"
_MOST_OF_A_USER = 10.0
"""Requests of a user that count, by those of the median user."""
_ALIKE_Z = 3.29
"""Standard errors, p = .001, at which arms surely differ where they should not."""


class Look(NamedTuple):
    """A time to compare the arms, in seconds after the stage began; how many standard errors make a difference sure;
    and whether it is the last."""

    after_s: float
    z: float
    is_last: bool


class Stage(BaseModel):
    """A share of the users, its time (Unix s; `ended` is 0 until then), figures by arm, what was checked, and whether
    the share may grow."""

    model_config = ConfigDict(extra="forbid")

    share: float
    began: float = 0.0
    ended: float = 0.0
    arms: dict[str, Any] = {}
    checks: list[Check] = []
    decision: StageDecision = "continue"

    @property
    def earns_less(self) -> bool:
        """Return whether the new bundle surely earned less."""
        return any(check.name.startswith(_GAIN) and check.outcome == "fails" for check in self.checks)


def looks_of(rollout: RolloutConfig) -> list[Look]:
    """Return the times to look: after `hold_minutes`, after twice as long, and so on to `most_hours`. Each look spends
    of `chance` as much as time passed since the one before (Lan and DeMets, Biometrika 1983, in its simplest form)."""
    last, times = 3_600 * rollout.most_hours, list[float]()
    after = 60 * rollout.hold_minutes
    while after < last:
        times.append(after)
        after *= 2
    times.append(last)
    passed = [now - before for before, now in zip([0.0, *times], times, strict=False)]
    return [
        Look(at, NormalDist().inv_cdf(1 - rollout.chance * took / last), at == last)
        for at, took in zip(times, passed, strict=True)
    ]


def checks_of_arms(gate: Gate, rollout: RolloutConfig, shown: pl.DataFrame, look: Look) -> list[Check]:
    """Return the checks of the impressions `shown` by both arms. `differs`, if they have that column: whether the
    bundles answer the request differently, null if unknown."""
    of_new = shown.filter(pl.col("arm") == NEW)
    clicks = int(of_new["label"].sum()) if shown["arm"].n_unique() == 2 else 0
    enough: Outcome = "holds" if clicks >= rollout.clicks else "fails" if look.is_last else "unknown"
    checks = [Check("clicks of the new bundle", clicks, f"at least {rollout.clicks}", enough, is_needed=True)]
    return checks + list(_compared(gate, shown, look)) if enough == "holds" else checks


def _compared(gate: Gate, shown: pl.DataFrame, look: Look) -> Iterator[Check]:
    sums = ArmSums.of(shown, OLD).capped(_MOST_OF_A_USER)
    what = "revenue" if sums.tables["rpm"].sum(0).all() else "clicks"
    yield _gain_of(what, sums, shown, look.z)
    clicks = sums.tables["ctr"].sum(0)
    if clicks[0] and clicks[1] >= gate.clicks:
        ratios = sums.ratios("predicted", "ctr")
        most = max(gate.calibration, factor_of(ratios.values[0]))
        yield at_most("calibration, as a factor", _factor(ratios.estimate(1)), most, f"at most {most:.4g}")
    times = [shown.filter(pl.col("arm") == arm)["total_ms"].to_list() for arm in (OLD, NEW)]
    yield at_most("latency, new ÷ old", ratio_of_medians(*times), gate.latency)


def _gain_of(what: str, sums: ArmSums, shown: pl.DataFrame, z: float) -> Check:
    """Return the check of the new arm's gain per request: of what differs alone, if that is surer."""
    metric, name = {"revenue": "rpm", "clicks": "ctr"}[what], f"{_GAIN} {what} per request"
    every = sums.ratios(metric, "requests")
    base = float(every.values[0])
    whole = _relative(every.difference(1), base)
    check = above_zero(name, whole.at(z))
    if "differs" not in shown.columns:
        return check
    known = shown.filter(pl.col("differs").is_not_null())
    if known["arm"].n_unique() < 2:
        return check
    alike, differing = (
        _relative(_earned_where(is_so, known).ratios(metric, "requests").difference(1), base)
        for is_so in (~pl.col("differs"), pl.col("differs"))
    )
    low, high = alike.at(_ALIKE_Z).ci95
    if low > 0 or high < 0:
        return check._replace(bound=f"{check.bound}; arms earn differently where bundles rank alike")
    if np.ptp(differing.ci95) > np.ptp(whole.ci95):
        return check
    share = known.select(pl.col("request_id").filter("differs").n_unique() / pl.col("request_id").n_unique()).item()
    check = above_zero(name, differing.at(z))
    return check._replace(bound=f"{check.bound}; of the {share:.0%} of requests that the bundles rank differently")


def _relative(difference: ArmDifference, base: float) -> Estimate:
    """Return a difference as a share of what the old arm earns per request; as it is if that is nothing."""
    value, (low, high) = difference.absolute
    return Estimate(value / base, (low / base, high / base)) if base > 0 else difference.absolute


def _earned_where(is_so: pl.Expr, shown: pl.DataFrame) -> ArmSums:
    """Return the sums of all requests; those that are not so earn nothing."""
    return ArmSums.of(shown.with_columns(pl.col("label") * is_so, pl.col("bid") * is_so), OLD).capped(_MOST_OF_A_USER)


def _factor(ratio: Estimate) -> Estimate:
    """Return how far a ratio is from 1, as a factor."""
    ends = sorted(factor_of(end) for end in ratio.ci95)
    low = 1.0 if ratio.ci95[0] <= 1.0 <= ratio.ci95[1] else ends[0]
    return Estimate(factor_of(ratio.value), (low, ends[1]))


def decided_by(checks: Sequence[Check], look: Look, decides: bool) -> StageDecision:
    """Return what the checks of a stage decide, which is the last if it `decides`: `stop` if one surely fails; else
    `grow`, if there are clicks enough and, in the last stage, revenue is surely higher. What is not sure by the last
    look stops, too.
    """
    if any(check.outcome == "fails" for check in checks):
        return "stop"
    if any(check.is_needed and not check.holds for check in checks):
        return "continue"
    if not decides or any(check.holds for check in checks if check.name.startswith(_GAIN)):
        return "grow"
    return "stop" if look.is_last else "continue"
