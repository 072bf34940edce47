"""AUC of each feature alone: one that ranks nearly as well as the whole model is often known only after the click."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from msd.contract.schema import SIDES, Side
from msd.dataset.split import Part
from msd.metrics import roc_auc
from msd.ranker.features import Features

_BINS = 64
_PRIOR = 10.0  # impressions of the mean click rate added to those of each value
Codes = NDArray[np.int32]


def single_features(features: Features, events: NDArray[np.int64]) -> dict[str, float]:
    """Return the AUC on `events` of each feature alone, scored by the click rate of its value in window and train rows.

    A number's values are bins of equal numbers of rows; a bag has the mean of its values' rates.
    """
    trained = features.of_part(Part.WINDOW, Part.TRAIN)
    labels, impressions = features.outcomes(trained)
    clicks, base = labels * impressions, float(np.average(labels, weights=impressions))
    outcomes, weights = features.outcomes(events)
    found = {}
    for side in SIDES:
        for name, codes in _codes(features, side, trained):
            size, width = int(codes.max()) + 1, codes.shape[1]
            shown, clicked = (
                np.bincount(codes[trained].ravel(), np.repeat(column, width), size) for column in (impressions, clicks)
            )
            rates, given = (clicked + _PRIOR * base) / (shown + _PRIOR), codes[events] > 0
            given[:, 0] |= ~given.any(1)  # without any value, the rate of those without
            found[name] = roc_auc(outcomes, (rates[codes[events]] * given).sum(1) / given.sum(1), weights)
    return found


def _codes(features: Features, side: Side, trained: NDArray[np.int64]) -> Iterator[tuple[str, Codes]]:
    """Yield the values [E, width] of each feature of a side as small whole numbers, 0 if missing or padding."""
    schema = features.schema
    if side == "context":
        categorical, dense = features.context_categorical.numpy(), features.context_dense.numpy()
        rows = np.arange(len(categorical))
    else:
        one = features.user if side == "user" else features.item
        categorical, dense, rows = one.entities.categorical, one.dense.numpy(), one.rows.numpy()
    for field in schema.indexed(side):
        if field.name in schema.settable[side]:
            yield field.name, categorical[:, schema.columns[field.name]][rows]
    for number in schema.numerics(side):
        value, is_missing = dense[:, schema.columns[number.name]].T
        edges = np.unique(np.quantile(value[trained], np.linspace(0, 1, _BINS)))
        yield number.name, np.where(is_missing > 0, 0, 1 + np.searchsorted(edges, value)).astype(np.int32)[:, None]
