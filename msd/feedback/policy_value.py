"""Value of another policy, from logged requests whose first candidate was chosen with known probabilities.

Three estimators of the mean reward of a first impression: inverse propensity scoring (IPS; Horvitz and Thompson 1952),
the same normalised by its weights (SNIPS; Swaminathan and Joachims, NIPS 2015), and doubly robust with a model's
predictions (DR; Dudík, Langford and Li, ICML 2011). Intervals resample users. What cannot be used is counted; what
cannot be right is an error.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.bootstrap import interval, resampled_sums
from msd.contract.pricing import Formula, ecpm_of, formula_of
from msd.dataset.problem import POLARS_ERRORS
from msd.feedback.arms import METRICS, Estimate, earned
from msd.feedback.files import FeedbackError

Floats = NDArray[np.float64]
Target = Mapping[str, Mapping[str, float]]
"""By request, the probability of each item to be first."""
RESAMPLES = 1_000
_TARGET = {"request_id": pl.String, "item_id": pl.String, "probability": pl.Float64}
_SUM_TOLERANCE = 1e-6


class Rewards(NamedTuple):
    """Of n requests: the reward of the first candidate, what the model predicted of it, and what it predicted of the
    target policy's first one, a mean over its choices. [n] each."""

    earned: Floats
    predicted: Floats
    predicted_of_target: Floats


@dataclass(frozen=True)
class ExploredRequests:
    """Requests whose first candidate was shown: whose they are [n], its logged propensity [n], the probability with
    which the target policy would have chosen it [n], and rewards by metric."""

    users: NDArray[np.int64]
    propensity: Floats
    target: Floats
    rewards: dict[str, Rewards]

    @property
    def weights(self) -> Floats:
        """Return how much each request counts for the target policy [n]."""
        return self.target / self.propensity

    def corrected(self, metric: str) -> Floats:
        """Return each request's part in the doubly robust mean [n]: the target's prediction, and its weighted error."""
        rewards = self.rewards[metric]
        return rewards.predicted_of_target + self.weights * (rewards.earned - rewards.predicted)

    def only(self, kept: NDArray[np.bool_]) -> "ExploredRequests":
        """Return some of the requests, for their support: without rewards."""
        return ExploredRequests(self.users[kept], self.propensity[kept], self.target[kept], {})


class PolicyValue(NamedTuple):
    """A metric's mean as logged, and three estimates of it under the target policy."""

    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate


class Support(NamedTuple):
    """Whether the log can judge the target: the mean weight, 1 if every choice of the target was possible and the
    propensities are right; the number of equally weighted requests that would say as much; the largest weight."""

    weight: Estimate
    effective: float
    largest: float

    @property
    def is_whole(self) -> bool:
        """Return whether the mean weight may be 1."""
        low, high = self.weight.ci95
        return low <= 1.0 <= high


def support(rows: ExploredRequests, resamples: int = RESAMPLES, seed: int = 0) -> Support:
    """Return how well the log supports the target policy."""
    weights = rows.weights
    drawn = resampled_sums(rows.users, np.stack([weights, np.ones(len(weights))]), resamples, seed)
    return Support(
        estimate_of(float(weights.mean()), drawn[0] / drawn[1]),
        float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0,
        float(weights.max()),
    )


def value_of(
    rows: ExploredRequests, metric: str, per: float = 1.0, resamples: int = RESAMPLES, seed: int = 0
) -> PolicyValue:
    """Return a metric's estimates, in units of `per` impressions. SNIPS is NaN if no request has a weight."""
    rewards, weights = rows.rewards[metric], rows.weights
    weighted = weights * rewards.earned
    sums = np.stack([rewards.earned, weighted, rows.corrected(metric), weights, np.ones(len(weights))])
    found = [per * _ratios(column) for column in (sums.sum(1), resampled_sums(rows.users, sums, resamples, seed))]
    return PolicyValue(*(estimate_of(float(value), drawn) for value, drawn in zip(*found, strict=True)))


def _ratios(sums: Floats) -> Floats:
    """Return logged, IPS, SNIPS and DR [4, …] of sums [5, …]."""
    earned, weighted, corrected, weights, requests = sums
    normalised = np.divide(weighted, weights, out=np.full_like(weights, np.nan), where=weights != 0)
    return np.stack([earned / requests, weighted / requests, normalised, corrected / requests])


def estimate_of(value: float, drawn: Floats) -> Estimate:
    """Return a figure with the interval of its resamples [R]; NaN if it has none."""
    return Estimate(value, interval(drawn) or (float("nan"), float("nan")))


def read_target(path: Path) -> Target:
    """Read a policy: the item that it puts first, by request, as JSONL or Parquet with the columns request_id, item_id
    and, if it draws, probability. Raises FeedbackError."""
    try:
        frame = pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_parquet(path)
        if "probability" not in frame.columns:
            frame = frame.with_columns(probability=pl.lit(1.0))
        frame = frame.select(pl.col(name).cast(kind) for name, kind in _TARGET.items())
    except POLARS_ERRORS as error:
        raise FeedbackError(
            f"{path}: cannot be read as a policy (columns request_id, item_id, and probability if it draws): {error}"
        ) from None
    found: dict[str, dict[str, float]] = {}
    for request_id, item_id, probability in frame.iter_rows():
        if request_id is None or item_id is None or probability is None or not 0 <= probability <= 1:
            raise FeedbackError(
                f"{path}: request {request_id}, item {item_id}, probability {probability}: expected both IDs, and a"
                " probability from 0 to 1"
            )
        own = found.setdefault(request_id, {})
        own[item_id] = own.get(item_id, 0.0) + probability
    for request_id, own in found.items():
        if abs(sum(own.values()) - 1.0) > _SUM_TOLERANCE:
            raise FeedbackError(f"{path}: request {request_id}: its probabilities sum to {sum(own.values()):g}, not 1")
    return found


class _Row(NamedTuple):
    user: str
    propensity: float
    target: float
    rewards: dict[str, tuple[float, float, float]]


def explored_requests(
    requests: Iterable[pl.DataFrame],
    impressions: pl.DataFrame,
    target: Target | None,
    told: dict[str, int],
    formulas: Mapping[str, Formula] | None = None,
) -> ExploredRequests:
    """Return the requests that explored and whose first candidate was shown. `impressions` are joined ones; `target` is
    a policy, by default that of the logged scores: the best first. `formulas`: the pricing that bundles declare, by
    bundle ID; that of any other bundle follows from its heads.

    Raises FeedbackError if no request is left, or a propensity is invalid.
    """
    columns = ("request_id", "item_id", "label", earned(impressions).alias("earned"))
    shown = impressions.select(columns).rows_by_key("request_id")
    rows = list(_rows(requests, shown, target, told, formulas or {}))
    if not rows:
        why = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in told.items() if count)
        raise FeedbackError(
            f"no request can be used: {why or 'the log holds none'}; requests have to say `explore` and their first"
            " candidate's impression has to name their request_id"
        )
    users = {user: place for place, user in enumerate(dict.fromkeys(row.user for row in rows))}
    return ExploredRequests(
        np.array([users[row.user] for row in rows], np.int64),
        np.array([row.propensity for row in rows]),
        np.array([row.target for row in rows]),
        {name: Rewards(*np.array([row.rewards[name] for row in rows]).T) for name in METRICS},
    )


def _rows(
    requests: Iterable[pl.DataFrame],
    shown: Mapping[str, list[Any]],
    target: Target | None,
    told: dict[str, int],
    formulas: Mapping[str, Formula],
) -> Iterator[_Row]:
    counts = ("requests_without_explore", "requests_whose_first_was_not_shown", "requests_not_in_the_target")
    told |= dict.fromkeys(counts, 0)
    seen: set[str] = set()
    for frame in requests:
        for row in frame.iter_rows(named=True):
            request_id, explore = row["request_id"], row["explore"]
            if request_id in seen:
                continue
            seen.add(request_id)
            if explore is None:
                told["requests_without_explore"] += 1
                continue
            first = first_of(row)
            outcome = next((one for one in shown.get(request_id, ()) if one[0] == first), None)
            if outcome is None:
                told["requests_whose_first_was_not_shown"] += 1
                continue
            chosen = None if target is None else target.get(request_id)
            if target is not None and chosen is None:
                told["requests_not_in_the_target"] += 1
                continue
            if row["heads"] is None:
                raise FeedbackError(f"request {request_id}: the log lacks its heads")
            formula = formulas.get(row["bundle_id"]) or formula_of(row["heads"])
            yield _row(row, first, outcome, chosen, formula)


def first_of(row: Mapping[str, Any]) -> str:
    """Return the first candidate's ID. Raises FeedbackError for an impossible choice or propensity."""
    explore, ids = row["explore"], row["item_ids"]
    if not isinstance(explore, dict):
        raise FeedbackError(f"request {row['request_id']}: its column explore is not that of a request log")
    propensity, first = explore.get("propensity"), explore.get("first")
    if propensity is None or not math.isfinite(propensity) or not 0 < propensity <= 1 + _SUM_TOLERANCE:
        raise FeedbackError(
            f"request {row['request_id']}: propensity {propensity}; a logged one is above 0 and at most 1, so the log"
            " was altered or is of another source"
        )
    if first is None or not 0 <= first < len(ids):
        raise FeedbackError(f"request {row['request_id']}: its first candidate is number {first} of {len(ids)}")
    return str(ids[first])


def _row(
    row: Mapping[str, Any],
    first: str,
    outcome: Sequence[Any],
    chosen: Mapping[str, float] | None,
    formula: Formula,
) -> _Row:
    ids, heads = row["item_ids"], row["heads"]
    scores = {head: np.array(column, np.float32) for head, column in zip(heads, row["scores"], strict=True)}
    if "cpc" not in formula or not set(row["pricing"] or ()) <= formula.keys():
        raise FeedbackError(f"request {row['request_id']}: its scores ({', '.join(heads)}) do not price its candidates")
    ecpm, pctr = ecpm_of(row["bids"], row["pricing"], scores, formula), scores["pctr"]
    if chosen is None:
        chosen = {ids[best_of(ecpm, pctr)]: 1.0}
    priced = ~np.isnan(ecpm)
    places = {one: place for place, one in reversed(list(enumerate(ids)))}
    if strange := [one for one in chosen if one not in places]:
        raise FeedbackError(
            f"request {row['request_id']}: the policy puts {strange[0]!r} first, which is not a candidate"
        )
    predicted = {"ctr": pctr.astype(np.float64), "rpm": np.where(priced, ecpm, 0.0) / 1_000}
    actual = {"ctr": float(outcome[1]), "rpm": float(outcome[2])}
    rewards = {
        name: (
            actual[name],
            float(predicted[name][places[first]]),
            float(sum(chance * predicted[name][places[one]] for one, chance in chosen.items())),
        )
        for name in METRICS
    }
    return _Row(row["user_id"], float(row["explore"]["propensity"]), chosen.get(first, 0.0), rewards)


def best_of(ecpm: Floats, pctr: NDArray[np.floating[Any]]) -> int:
    """Return the place of the most valuable candidate: only those with a bid compete, if there are any."""
    priced = ~np.isnan(ecpm)
    return int(np.argmax(np.where(priced, ecpm, -np.inf) if priced.any() else pctr))
