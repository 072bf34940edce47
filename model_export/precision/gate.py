"""Quality gate of a precision: same rows as fp32, bounds on the differences. Knows probabilities, not graphs.

AUC and logloss pass only if the worse end of the paired 95 % interval over users is within its bound. With too few
rows, fp32 stays.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import interval, resample_metrics
from msd.metrics import (
    CalibrationBin,
    Labels,
    Probabilities,
    calibration,
    expected_calibration_error,
    measure_pooled,
)

# 1/15 of the AUC that a teacher's knowledge gains on MovieLens-100K (.0076), 1/20 of the logloss (.0105).
AUC_BOUND = 0.0005
LOGLOSS_BOUND = 0.0005
# 1/10 of a calibrated model's ECE on MovieLens-100K's test rows (.020).
ECE_BOUND = 0.002
# Bids are multiplied by pCTR: total spend may change by half a percent.
RATIO_BOUND = 0.005
_LEAST_USERS = 30


class Verdict(NamedTuple):
    """Metrics by name, how much worse AUC and logloss may be, and why the precision is refused, if it is."""

    metrics: dict[str, float]
    auc_worst: float | None
    logloss_worst: float | None
    refused: str | None


def judge(
    labels: Labels, users: NDArray[np.int64], plain: Probabilities, other: Probabilities, of: str = "clicks"
) -> Verdict:
    """Compare `other` [n] with fp32's `plain` [n] on n rows of `users` [n], which hold both labels. `of`: what is
    predicted."""
    before, after = measure_pooled(labels, plain), measure_pooled(labels, other)
    # With too few users, rows are resampled.
    groups = users if len(np.unique(users)) >= _LEAST_USERS else np.arange(len(labels))
    drawn = resample_metrics(labels, np.stack([plain, other]), groups)
    auc_worst = _worst(drawn.auc[0] - drawn.auc[1])
    logloss_worst = _worst(drawn.logloss[1] - drawn.logloss[0])
    after["ece"] = expected_calibration_error(_in_bins_of(plain, labels, other))
    ece = after["ece"] - before["ece"]
    ratio = abs(after["predicted_over_observed"] - before["predicted_over_observed"])
    checks = (
        ("AUC may be lower", auc_worst, AUC_BOUND),
        ("logloss may be higher", logloss_worst, LOGLOSS_BOUND),
        ("ECE is higher", ece, ECE_BOUND),
        (f"predicted over observed {of} moves", ratio, RATIO_BOUND),
    )
    # Not `>`: NaN must not pass.
    failed = [f"{what} by {found:.5f}, more than {bound}" for what, found, bound in checks if not found <= bound]
    kept = {name: after[name] for name in ("auc", "logloss", "ece", "predicted_over_observed")}
    return Verdict(kept, _finite(auc_worst), _finite(logloss_worst), "; ".join(failed) or None)


def _in_bins_of(plain: Probabilities, labels: Labels, other: Probabilities) -> list[CalibrationBin]:
    """Return the calibration curve of `other` over fp32's bins. With its own bins, rows that change bins by rounding
    would make up the whole difference."""
    order = np.argsort(plain, kind="stable")
    places = np.cumsum([int(one.impressions) for one in calibration(labels, plain)])[:-1]
    return [
        CalibrationBin(float(other[rows].mean()), float(labels[rows].mean()), len(rows))
        for rows in np.split(order, places)
    ]


def _worst(losses: NDArray[np.float64]) -> float:
    found = interval(losses)
    return float("nan") if found is None else found[1]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
