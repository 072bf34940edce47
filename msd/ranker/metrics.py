"""How good click probabilities are: ranking (AUC, GAUC), likelihood (logloss, normalised entropy) and calibration."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
Labels = NDArray[np.float64]


class CalibrationBin(NamedTuple):
    """Mean prediction and observed click rate of one tenth or so of the rows."""

    predicted: float
    observed: float
    rows: int


def measure(labels: Labels, probabilities: Probabilities, users: NDArray[np.int64]) -> dict[str, float | None]:
    """All metrics of [n] rows that hold both labels. `users` [n] groups rows for GAUC.

    gauc: AUC by user, weighted by rows; uauc: unweighted. Users with one label only are left out of both;
    if all are, both are None. The others: see `measure_pooled`.
    """
    by_user = [
        (roc_auc(labels[rows], probabilities[rows]), len(rows))
        for rows in _groups(users)
        if 0 < labels[rows].sum() < len(rows)
    ]
    aucs, weights = np.array(by_user).T if by_user else (None, None)
    pooled = measure_pooled(labels, probabilities)
    return {
        "auc": pooled.pop("auc"),
        "gauc": None if aucs is None else float(np.average(aucs, weights=weights)),
        "uauc": None if aucs is None else float(aucs.mean()),
        **pooled,
    }


def roc_auc(labels: Labels, scores: NDArray[np.floating[Any]]) -> float:
    """The share of pairs of a click and a row without one that scores [n] rank right, a tie counting half (the
    Mann–Whitney statistic). NaN of rows that hold one label only."""
    clicked, others = scores[labels > 0], np.sort(scores[labels <= 0])
    if not len(clicked) or not len(others):
        return float("nan")
    below, up_to = (np.searchsorted(others, clicked, side).sum() for side in ("left", "right"))
    return float(below + up_to) / (2 * len(clicked) * len(others))


def measure_pooled(labels: Labels, probabilities: Probabilities) -> dict[str, float]:
    """The metrics that do not ask whose [n] rows they are, which hold both labels.

    normalised_entropy: logloss over that of always predicting the base rate (He et al. 2014). ece: see `calibration`.
    """
    base = labels.mean()
    loss = mean_logloss(labels, probabilities)
    return {
        "auc": roc_auc(labels, probabilities),
        "logloss": loss,
        "normalised_entropy": loss / mean_logloss(labels, np.full(len(labels), base)),
        "ece": expected_calibration_error(calibration(labels, probabilities)),
        "predicted_over_observed": float(probabilities.mean() / base),
    }


def row_losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """−log of the probability [..., n] that was given to what happened in each of n rows."""
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    losses: NDArray[np.float64] = -np.log(np.where(labels > 0, clipped, 1 - clipped))
    return losses


def mean_logloss(labels: Labels, probabilities: Probabilities) -> float:
    """The mean of `row_losses`, in nats."""
    return float(row_losses(labels, probabilities).mean())


def calibration(labels: Labels, probabilities: Probabilities, bins: int = 15) -> list[CalibrationBin]:
    """The calibration curve over bins of equal numbers of rows, from the lowest prediction to the highest."""
    order = np.argsort(probabilities, kind="stable")
    return [
        CalibrationBin(float(probabilities[rows].mean()), float(labels[rows].mean()), len(rows))
        for rows in np.array_split(order, bins)
        if len(rows)
    ]


def expected_calibration_error(curve: list[CalibrationBin]) -> float:
    """Mean |predicted − observed| over the bins, weighted by their rows."""
    rows = np.array([one.rows for one in curve])
    gaps = np.array([abs(one.predicted - one.observed) for one in curve])
    return float(np.average(gaps, weights=rows))


def _groups(keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
