"""Choice of the crosses that a log supports, and fit of their weights by empirical Bayes.

Each cross's weights have a normal prior around 0. Its variance is learned, so that a cross which tells nothing
vanishes, and one with few rows a cell is shrunk (MacKay, Neural Computation 1992, as effective numbers of parameters).
Both need only sums over each cell's rows: the cells of a cross share no row, so one Newton step solves it, given the
others (backfitting; Hastie and Tibshirani 1990).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from msd.dataset.split import Part
from msd.metrics import sigmoid
from msd.ranker.arrays import chunks
from msd.ranker.batch import index_tensors
from msd.ranker.crosses import THEMES, Cross, Crosses, possible_crosses
from msd.ranker.features import Features

Floats = NDArray[np.float64]
_MOST_ROWS = 1_000_000  # the latest, to choose by
_SWEEPS = 40
_SETTLED = 1e-4  # mean change of the logits in one sweep
_START, _LEAST = 0.05, 1e-5  # variances of a weight
_RAREST = 1e-6  # click rate
_LONGEST = 2.0  # step, in log-odds
_FLAT = 3e-4  # mean square that a cross must add to the logits
_MOST_CELLS_A_ROW = 64
_MOST_ITEMS = 50_000  # to find centres of
_ROWS_AT_ONCE = 16_384  # whose histories are read together
_HALF_LIVES = (0.25, 0.125, 0.06, 0.03)  # of a row's weight in what later rows add, as shares of all rows


@dataclass
class FittedCross:
    """One cross: cells [E, width] of its rows (−1 for none), how much each counts [E], and the weights [count] with
    the variance of their prior."""

    cells: NDArray[np.int32]
    share: NDArray[np.float32] | None
    weights: Floats
    variance: float = _START

    def logits(self, weights: Floats) -> Floats:
        """Return what weights [count] add to the logits [E]."""
        padded = np.append(weights, 0.0)
        if self.share is None:
            return np.asarray(padded[self.cells[:, 0]])
        return np.asarray(padded[self.cells].sum(1) * self.share)

    def sums(self, of_rows: Floats) -> Floats:
        """Return the sums [count] of rows' values [E] over the rows of each cell."""
        shared = of_rows if self.share is None else of_rows * self.share
        width, size = self.cells.shape[1], len(self.weights)
        # The last bin takes the rows without a cell.
        places = np.where(self.cells < 0, size, self.cells).ravel()
        return np.bincount(places, np.repeat(shared, width), size + 1)[:-1].astype(np.float64)


def train_crosses(features: Features) -> Crosses:
    """Return the crosses that the window and train rows support, fitted on them.

    Where that surely predicts the valid rows better, themes are crossed, too, and later rows add to the weights: what
    holds of a theme may pass with the news, and after a drift old rows mislead. `features`: with adapted vectors, if
    their schema has vectors of items.
    """
    schema = features.schema
    best = _Fit(features, possible_crosses(schema, themes=False))
    if schema.semantic_width("item"):
        themed = _Fit(features, possible_crosses(schema), _centres(features))
        best = themed if _is_surely_less(themed.losses(), best.losses()) else best
    best.add_later()
    return best.model


class _Fit:
    """Those of some crosses that rows support, fitted to the window and train rows, and judged by the valid rows.
    `centres`: of themes, if these are among them."""

    def __init__(self, features: Features, crosses: Sequence[Cross], centres: Tensor | None = None) -> None:
        self._features, self._events = features, features.of_part(Part.WINDOW, Part.TRAIN)
        every = _with_centres(Crosses(features.schema, crosses), centres)
        chosen = _chosen(features, every, self._events[-_MOST_ROWS:])
        self.model = _with_centres(Crosses(features.schema, chosen), centres)
        self._rows = cells_of_rows(features, self.model, self._events)
        valid = features.of_part(Part.VALID)
        self._valid, (self._labels, shown) = cells_of_rows(features, self.model, valid), features.outcomes(valid)
        self._weights = shown / shown.mean()
        self._set(_fit(features, self._rows, self._events))

    def losses(self, found: "_Weights | None" = None) -> Floats:
        """Return the valid rows' losses [n] by the model's weights, or by others."""
        base, by_offset = found or self._found
        logits = sum(
            (self._valid[offset].logits(one) for offset, one in by_offset.items()), np.full(len(self._labels), base)
        )
        return np.asarray(self._weights * (np.logaddexp(0.0, logits) - self._labels * logits), np.float64)

    def add_later(self) -> None:
        """Add to the weights what later rows tell, if valid rows are surely predicted better so."""
        later = _with_later(self._features, self._rows, self._events, self._found)
        best = min(later, key=lambda found: float(self.losses(found).mean()))
        if _is_surely_less(self.losses(best), self.losses()):
            self._set(best)

    @torch.no_grad()
    def _set(self, found: "_Weights") -> None:
        self._found = found
        self.model.base.fill_(found.base)
        for offset, weights in found.by_offset.items():
            self.model.weights[offset : offset + len(weights)] = torch.from_numpy(weights)


def _with_centres(model: Crosses, centres: Tensor | None) -> Crosses:
    if model.themes and centres is not None:
        model.centres.copy_(centres)
    return model


def _centres(features: Features) -> Tensor:
    """Return the centres [C, D] of the vectors of trained items, by k-means for each field of themes. Where there are
    fewer items, the others are zero, the nearest of none: the origin comes first."""
    rows = np.unique(features.item.rows.cpu().numpy()[features.of_part(Part.WINDOW, Part.TRAIN)])
    vectors = features.adapted["item"].cpu().numpy()[rows].astype(np.float64)
    vectors = vectors[vectors.any(1)][:_MOST_ITEMS]
    found = []
    for count in THEMES:
        centres = np.zeros((count, vectors.shape[1]))
        if different := min(count, len(np.unique(vectors, axis=0))):
            centres[:different] = KMeans(different, n_init=4, random_state=0).fit(vectors).cluster_centers_
        found.append(centres)
    return torch.from_numpy(np.concatenate(found)).float()


def _is_surely_less(loss: Floats, other: Floats) -> bool:
    """Return whether rows' losses [n] are less by more than two standard errors."""
    less = other - loss
    return bool(less.mean() > 2.0 * less.std() / np.sqrt(len(less)))


def _chosen(features: Features, model: Crosses, events: NDArray[np.int64]) -> list[Cross]:
    """Return the crosses that change the logits of rows, those that change them most first."""
    fitted = cells_of_rows(features, model, events)
    _fit(features, fitted, events)
    placed = [(cells, one) for cells, offset in model.placed for one in [fitted[offset]]]
    spread = [(float(np.mean(one.logits(one.weights) ** 2)), cells) for cells, one in placed]
    chosen, width = [], 0
    for added, cells in sorted(spread, key=lambda pair: -pair[0]):
        if added >= _FLAT and width + cells.width <= _MOST_CELLS_A_ROW:
            chosen.append(cells.cross)
            width += cells.width
    return chosen


class FitRows(NamedTuple):
    """Rows to fit crosses to, as columns [E]: labels, weights, log-odds without the crosses, and how much of a cross's
    weight counts."""

    labels: Floats
    weights: Floats
    known: Floats
    slope: Floats


class _Weights(NamedTuple):
    """A fit: the base, and the weights of each cross by its place."""

    base: float
    by_offset: dict[int, Floats]


def _fit(features: Features, fitted: dict[int, FittedCross], events: NDArray[np.int64]) -> _Weights:
    """Fit the crosses anew to the events, which all weigh alike."""
    labels, shown = features.outcomes(events)
    mean = float(np.clip(np.average(labels, weights=shown), _RAREST, 1 - _RAREST))
    start = float(np.log(mean / (1 - mean)))
    rows = FitRows(labels, shown / shown.mean(), np.full(len(events), start), np.ones(len(events)))
    base = start + fit_crosses(fitted.values(), rows)
    return _Weights(base, {offset: one.weights.copy() for offset, one in fitted.items()})


def _with_later(
    features: Features, fitted: dict[int, FittedCross], events: NDArray[np.int64], whole: _Weights
) -> Iterator[_Weights]:
    """Yield by half-life the weights of all rows with what later ones add.

    That has a normal prior around 0 whose variance the rows decide, so that what has not moved keeps what all rows
    tell.
    """
    labels, shown = features.outcomes(events)
    logits = (fitted[offset].logits(one) for offset, one in whole.by_offset.items())
    known, age = sum(logits, np.full(len(events), whole.base)), np.arange(len(events))[::-1] / len(events)
    for half_life in _HALF_LIVES:
        rows = FitRows(labels, shown / shown.mean() * 0.5 ** (age / half_life), known, np.ones(len(events)))
        base = whole.base + fit_crosses(fitted.values(), rows)
        yield _Weights(base, {offset: whole.by_offset[offset] + one.weights for offset, one in fitted.items()})


def fit_crosses(fitted: Collection[FittedCross], rows: FitRows) -> float:
    """Fit the crosses anew to rows, and return what the base adds to the log-odds."""
    base, logits = 0.0, rows.known.copy()
    for one in fitted:
        one.weights, one.variance = np.zeros_like(one.weights), _START
    for _ in range(_SWEEPS):
        before = logits.copy()
        for one in fitted:
            if one.variance > _LEAST:
                logits += _step(one, logits, rows)
        clicks = sigmoid(logits)
        # A prior of variance 1 keeps it finite where all labels are alike.
        pulled = float((rows.weights * rows.slope * (rows.labels - clicks)).sum()) - base
        moved = pulled / (float((rows.weights * rows.slope**2 * clicks * (1 - clicks)).sum()) + 1.0)
        moved = float(np.clip(moved, -_LONGEST, _LONGEST))
        base, logits = base + moved, logits + rows.slope * moved
        if np.abs(logits - before).mean() < _SETTLED:
            break
    return base


def _step(one: FittedCross, logits: Floats, rows: FitRows) -> Floats:
    """Move a cross's weights, given the others, and its variance; return what that adds to the logits [E]."""
    clicks = sigmoid(logits)
    before = one.logits(one.weights)
    curvature = one.sums(rows.weights * rows.slope**2 * clicks * (1 - clicks))
    precision = curvature + 1.0 / one.variance
    pulled = one.sums(rows.weights * rows.slope * (rows.labels - clicks)) - one.weights / one.variance
    # An overlong step would overshoot where the sigmoid is flat.
    one.weights += np.clip(pulled / precision, -_LONGEST, _LONGEST)
    seen = curvature > 0
    effective = float((curvature[seen] / precision[seen]).sum())
    one.variance = float((one.weights[seen] ** 2).sum()) / max(effective, _LEAST)
    if one.variance <= _LEAST:
        one.weights[:] = 0.0
    return rows.slope * (one.logits(one.weights) - before)


def cells_of_rows(features: Features, model: Crosses, events: NDArray[np.int64]) -> dict[int, FittedCross]:
    """Return the crosses with their rows' cells, by their places in the model's weights, not fitted yet."""
    fitted: dict[int, FittedCross] = {}
    model = model.to(features.labels.device)
    for part in chunks(len(events), _ROWS_AT_ONCE):
        tensors = index_tensors(features, events[part])
        for cells, offset, found in model.cells(tensors):
            own = found.cpu().numpy()
            if offset not in fitted:
                rows = np.empty((len(events), cells.width), np.int32)
                share = np.ones(len(events), np.float32) if cells.bags else None
                fitted[offset] = FittedCross(rows, share, np.zeros(cells.count))
            fitted[offset].cells[part] = own
            if (share := fitted[offset].share) is not None:
                share[part] = 1.0 / np.maximum((own >= 0).sum(1), 1)
    return fitted
