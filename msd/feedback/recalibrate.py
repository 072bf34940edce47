"""Fits a correction of calibration to observed clicks: a shift and a slope of the log-odds.

A logistic regression with weights that decay with an impression's age, and a normal prior around no correction. Pure:
arrays in, a correction out. Does not know logs.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.correction import MAX_LOG_SLOPE, MAX_SHIFT, LearnedCorrection
from msd.contract.state import decay

Floats = NDArray[np.float64]
# Chosen on CoLLM's valid period (decision 41): the prior's standard deviation of shift and slope, and the minimum
# likelihood ratio (as 2 log) for a change.
_PRIOR = 0.3
_LEAST_GAIN = 1.0
_LEAST_CLICKS = 100
RATE_PER_HOUR = 0.25
"""Maximum change of a correction per hour, in log-odds and in the logarithm of its slope: it takes at least four hours
to reach its bound, so that operators can react.
"""
_SURELY_SOME = 20.0


class Impressions(NamedTuple):
    """Settled impressions of one bundle, the latest last: log-odds as the model gave them, labels, users by number, and
    when they were scored (unix s); all [n]."""

    logits: Floats
    labels: Floats
    users: NDArray[np.int64]
    at: Floats


class Recalibration(NamedTuple):
    """The new correction, None for none, and why. `is_broken`: the events are implausible."""

    learned: LearnedCorrection | None
    why: str
    is_broken: bool = False


class _Line(NamedTuple):
    """Maps log-odds z to centre + shift + slope × (z − centre)."""

    centre: float = 0.0
    shift: float = 0.0
    slope: float = 1.0

    def __call__(self, logits: Floats) -> Floats:
        return self.centre + self.shift + self.slope * (logits - self.centre)


def learn(shown: Impressions, previous: LearnedCorrection | None, half_life_s: float) -> Recalibration:
    """Return the correction after these impressions; `previous` is the current one."""
    clicks = int(shown.labels.sum())
    if min(clicks, len(shown.labels) - clicks) < _LEAST_CLICKS:
        return Recalibration(
            previous, f"kept: {clicks} clicks on {len(shown.labels)} impressions are too few to learn from"
        )
    current = _Line() if previous is None else _Line(previous.centre, previous.shift, previous.slope)
    if (silent := _silent(current(shown.logits), shown.labels)) is not None:
        return Recalibration(
            previous, f"kept: no click on the latest {silent} impressions; are clicks still sent?", True
        )
    now = float(shown.at[-1])
    weights = decay(now - shown.at, half_life_s)
    fitted = _fit(shown, weights)
    # Impressions of one user are correlated, and weigh less than those of different users.
    weights /= _dispersion(fitted(shown.logits), shown, weights)
    fitted = _fit(shown, weights)
    gain = 2 * (_likelihood(fitted, shown, weights) - _likelihood(current, shown, weights))
    if gain > _LEAST_GAIN:
        since = float(shown.at[0]) if previous is None else previous.at
        line, why = _step(current, fitted, RATE_PER_HOUR * max(0.0, now - since) / 3_600)
    elif previous is None:
        return Recalibration(None, "none: clicks agree with the model")
    else:
        line, why = current, "kept: clicks agree with it"
    return Recalibration(LearnedCorrection(**line._asdict(), at=now, impressions=len(shown.labels), clicks=clicks), why)


def _fit(shown: Impressions, weights: Floats) -> _Line:
    """Fit the most probable line by Newton's method."""
    centre = float(np.clip(np.average(shown.logits, weights=weights), -20, 20))
    inputs_2N = np.stack([np.ones_like(shown.logits), shown.logits - centre])
    found, prior = np.zeros(2), np.eye(2) / _PRIOR**2
    for _ in range(20):
        chance = _sigmoid(shown.logits + found @ inputs_2N)
        gradient = inputs_2N @ (weights * (shown.labels - chance)) - prior @ found
        curvature = (inputs_2N * (weights * chance * (1 - chance))) @ inputs_2N.T + prior
        step = np.linalg.solve(curvature, gradient)
        # An overlong first step would overshoot where the sigmoid is flat.
        found += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return _bounded(centre, found[0], 1 + found[1])


def _dispersion(logits: Floats, shown: Impressions, weights: Floats) -> float:
    """Return the variance of sums over users, as a multiple of that of independent impressions; at least 1."""
    residuals = weights * (shown.labels - _sigmoid(logits))
    return max(1.0, float((np.bincount(shown.users, residuals) ** 2).sum() / (residuals**2).sum()))


def _likelihood(line: _Line, shown: Impressions, weights: Floats) -> float:
    logits = line(shown.logits)
    return -float(weights @ np.logaddexp(0, np.where(shown.labels > 0, -logits, logits)))


def _silent(logits: Floats, labels: Floats) -> int | None:
    """Return the number of latest impressions without a click if that is implausible; else None."""
    latest = len(labels) - 1 - int(np.flatnonzero(labels)[-1])
    return latest if latest and _sigmoid(logits[-latest:]).sum() >= _SURELY_SOME else None


def _step(current: _Line, fitted: _Line, most: float) -> tuple[_Line, str]:
    """Move the current line towards the fitted one, within the rate limit."""
    centre = fitted.centre
    shift, log_slope = float(current(np.array(centre))) - centre, math.log(current.slope)
    moved = _bounded(
        centre,
        shift + float(np.clip(fitted.shift - shift, -most, most)),
        math.exp(log_slope + float(np.clip(math.log(fitted.slope) - log_slope, -most, most))),
    )
    return moved, "moved" if moved == fitted else "moved as far as the rate of change allows"


def _bounded(centre: float, shift: float, slope: float) -> _Line:
    least, most = math.exp(-MAX_LOG_SLOPE), math.exp(MAX_LOG_SLOPE)
    return _Line(centre, float(np.clip(shift, -MAX_SHIFT, MAX_SHIFT)), float(np.clip(slope, least, most)))


def _sigmoid(logits: Floats) -> Floats:
    chances: Floats = 1 / (1 + np.exp(-logits))
    return chances
