"""What another policy would have earned, from requests whose first candidate was chosen with known probabilities.

Three estimators of the mean reward of a first impression: inverse propensity scoring (IPS; Horvitz and Thompson 1952),
the same normalised by its weights (SNIPS; Swaminathan and Joachims, NIPS 2015), and doubly robust with the model's own
scores (DR; Dudík, Langford and Li, ICML 2011). Intervals resample users. Pure: arrays in, figures out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import interval
from msd.feedback.arms import Estimate

Floats = NDArray[np.float64]
RESAMPLES = 1_000


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
    drawn = _resampled(rows.users, np.stack([weights, np.ones(len(weights))]), resamples, seed)
    return Support(
        _estimate(float(weights.mean()), drawn[0] / drawn[1]),
        float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0,
        float(weights.max()),
    )


def value_of(
    rows: ExploredRequests, metric: str, per: float = 1.0, resamples: int = RESAMPLES, seed: int = 0
) -> PolicyValue:
    """Return a metric's estimates, in units of `per` impressions. SNIPS is NaN if no request has a weight."""
    rewards, weights = rows.rewards[metric], rows.weights
    weighted = weights * rewards.earned
    corrected = rewards.predicted_of_target + weights * (rewards.earned - rewards.predicted)
    sums = np.stack([rewards.earned, weighted, corrected, weights, np.ones(len(weights))])
    found = [per * _ratios(column) for column in (sums.sum(1), _resampled(rows.users, sums, resamples, seed))]
    return PolicyValue(*(_estimate(float(value), drawn) for value, drawn in zip(*found, strict=True)))


def _ratios(sums: Floats) -> Floats:
    """Return logged, IPS, SNIPS and DR [4, …] of sums [5, …]."""
    earned, weighted, corrected, weights, requests = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([earned / requests, weighted / requests, weighted / weights, corrected / requests])


def _estimate(value: float, drawn: Floats) -> Estimate:
    return Estimate(value, interval(drawn) or (float("nan"), float("nan")))


def _resampled(users: NDArray[np.int64], columns: Floats, resamples: int, seed: int) -> Floats:
    """Return the columns' [C, n] sums over resamples of the users [C, R], each with all its requests."""
    _, of_row = np.unique(users, return_inverse=True)
    by_user = np.stack([np.bincount(of_row, column) for column in columns])
    rng, count = np.random.default_rng(seed), by_user.shape[1]
    drawn = [by_user @ np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(resamples)]
    return np.stack(drawn, axis=1)
