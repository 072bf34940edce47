"""Metrics of click probabilities: ranking (AUC, GAUC), likelihood (logloss, normalised entropy) and calibration.
Weights: impressions per row; one by default.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float64]
Labels = NDArray[np.float64]
Weights = NDArray[np.float64]


class CalibrationBin(NamedTuple):
    """Mean prediction, observed click rate and impressions of one bin of rows."""

    predicted: float
    observed: float
    impressions: float


FEWEST_USERS = 30
"""Users with both labels below which a mean over users is noise, and no figure."""


def measure(
    labels: Labels, probabilities: Probabilities, users: NDArray[np.int64], weights: Weights | None = None
) -> dict[str, float | None]:
    """Return all metrics of [n] rows with both labels. `users` [n] groups rows for GAUC.

    gauc: mean AUC by user, weighted by impressions; uauc: unweighted. Users with one label only are left out of both;
    if fewer than FEWEST_USERS remain, both are None. For the others see `measure_pooled`.
    """
    aucs, shown = measure_users(labels, probabilities, users, weights)
    pooled, enough = measure_pooled(labels, probabilities, weights), len(aucs) >= FEWEST_USERS
    return {
        "auc": pooled.pop("auc"),
        "gauc": float(np.average(aucs, weights=shown)) if enough else None,
        "uauc": float(aucs.mean()) if enough else None,
        **pooled,
    }


def measure_users(
    labels: Labels, probabilities: Probabilities, users: NDArray[np.int64], weights: Weights | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the AUC [u] and impressions [u] of each user with both labels, by ascending user."""
    weights = _weights(labels, weights)
    rows_of = [rows for rows in groups_of(users) if 0 < labels[rows].sum() < len(rows)]
    aucs = [roc_auc(labels[rows], probabilities[rows], weights[rows]) for rows in rows_of]
    return np.array(aucs, np.float64), np.array([weights[rows].sum() for rows in rows_of], np.float64)


def roc_auc(labels: Labels, scores: NDArray[np.floating[Any]], weights: Weights | None = None) -> float:
    """Return the share of pairs of a clicked and an unclicked row that scores [n] rank right, a tie counting half (the
    Mann–Whitney statistic). NaN for rows with one label only."""
    weights, place = _weights(labels, weights), np.unique(scores, return_inverse=True)[1]
    clicks, others = (np.bincount(place, weights * is_one) for is_one in (labels > 0, labels <= 0))
    pairs = float(clicks.sum() * others.sum())
    return float(clicks @ (np.cumsum(others) - others / 2)) / pairs if pairs else float("nan")


def measure_pooled(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> dict[str, float]:
    """Return the metrics that do not depend on users, of [n] rows with both labels.

    normalised_entropy: logloss divided by that of always predicting the base rate (He et al. 2014). ece: see
    `calibration`.
    """
    base = np.average(labels, weights=weights)
    loss = mean_logloss(labels, probabilities, weights)
    return {
        "auc": roc_auc(labels, probabilities, weights),
        "logloss": loss,
        "normalised_entropy": loss / mean_logloss(labels, np.full(len(labels), base), weights),
        "ece": expected_calibration_error(calibration(labels, probabilities, weights)),
        "predicted_over_observed": float(np.average(probabilities, weights=weights) / base),
    }


def sigmoid(logits: NDArray[np.float64]) -> Probabilities:
    """Return the probabilities of logits."""
    probabilities: Probabilities = 1.0 / (1.0 + np.exp(-logits))
    return probabilities


def row_losses(labels: Labels, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return −log of the predicted probability of each row's label, [..., n]."""
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    losses: NDArray[np.float64] = -np.log(np.where(labels > 0, clipped, 1 - clipped))
    return losses


def mean_logloss(labels: Labels, probabilities: Probabilities, weights: Weights | None = None) -> float:
    """Return the mean of `row_losses`, in nats."""
    return float(np.average(row_losses(labels, probabilities), weights=weights))


def calibration(
    labels: Labels, probabilities: Probabilities, weights: Weights | None = None, bins: int = 15
) -> list[CalibrationBin]:
    """Return the calibration curve over bins of equal numbers of rows, by ascending prediction."""
    order, weights = np.argsort(probabilities, kind="stable"), _weights(labels, weights)
    return [
        CalibrationBin(
            float(np.average(probabilities[rows], weights=weights[rows])),
            float(np.average(labels[rows], weights=weights[rows])),
            float(weights[rows].sum()),
        )
        for rows in np.array_split(order, bins)
        if len(rows)
    ]


def ece_bins(probabilities: Probabilities, bins: int = 15) -> NDArray[np.int64]:
    """Return the bin of `calibration` that each row is in [n]."""
    found = np.empty(len(probabilities), np.int64)
    for place, rows in enumerate(np.array_split(np.argsort(probabilities, kind="stable"), bins)):
        found[rows] = place
    return found


def expected_calibration_error(curve: list[CalibrationBin]) -> float:
    """Return the mean |predicted − observed| over the bins, weighted by their impressions."""
    impressions = np.array([one.impressions for one in curve])
    gaps = np.array([abs(one.predicted - one.observed) for one in curve])
    return float(np.average(gaps, weights=impressions))


def _weights(labels: Labels, weights: Weights | None) -> Weights:
    return np.ones(len(labels)) if weights is None else weights


def groups_of(keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Group row numbers by key [n]; rows of a key keep their order."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
