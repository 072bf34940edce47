"""Refresh of a trained ranker: what its crosses must add for the rows since its training; all else stays.

What is added has a normal prior around 0 whose variance the rows decide, as the crosses themselves: where nothing has
moved, nothing is added. Later rows weigh more, by the half-life that predicts the latest rows best.
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.metrics import sigmoid
from msd.ranker.batch import TrainedRanker
from msd.ranker.crosses import Crosses
from msd.ranker.features import Features
from msd.ranker.model import Ranker
from msd.training.train import predict_opinions
from msd.training.train_crosses import FitRows, Floats, cells_of_rows, fit_crosses

HALF_LIVES_S = (None, 14_400.0, 7_200.0, 3_600.0, 1_800.0)
"""Of a row's weight, by its age; None: all rows weigh alike."""
_FOLDS = 4
_LEAST_SLOPE = 1e-3


class RefreshError(MsdError):
    """The model has no crosses that rows could change."""


class Line(NamedTuple):
    """What services make of the log-odds [n] of rows: a correction of calibration, with shifts of segments."""

    offset: Floats
    slope: float = 1.0

    def __call__(self, logits: Floats) -> Floats:
        return self.offset + self.slope * logits


class Refreshed(NamedTuple):
    """The refreshed model, its half-life, and the corrected click probabilities [n] of the latest rows by what earlier
    rows, and other users' latest ones, would have added."""

    model: TrainedRanker
    half_life_s: float | None
    unseen: Floats


def refresh_ranker(
    model: TrainedRanker,
    features: Features,
    rows: NDArray[np.int64],
    at: Floats,
    latest: NDArray[np.bool_],
    line: Line | None = None,
) -> Refreshed:
    """Return the model with what `rows` [E] add, which are sorted by their times `at` [E] (Unix s) and which its
    training has not seen. `latest` [E]: those that choose the half-life. `line`: how services will correct the model on
    rows [E]. Raises RefreshError."""
    added = _Additions(model, features, rows, line or Line(np.zeros(len(rows))))
    labels, shown = features.outcomes(rows)
    # Old rows weigh less, so that fewer rows count: the latest never weigh more.
    weights = {one: shown / shown.mean() * (0.5 ** ((at[-1] - at) / one) if one else 1.0) for one in HALF_LIVES_S}
    fold = _folds(features.people(rows))
    losses, found = {}, {}
    for half_life, of_rows in weights.items():
        logits = np.empty(len(rows))
        for number in range(_FOLDS):
            held = latest & (fold == number)
            logits[held] = added.fit(labels, np.where(held, 0.0, of_rows))[held]
        loss = np.logaddexp(0.0, logits[latest]) - labels[latest] * logits[latest]
        losses[half_life], found[half_life] = float(shown[latest] @ loss), sigmoid(logits[latest])
    best = min(losses, key=lambda one: losses[one])
    added.fit(labels, weights[best])
    return Refreshed(added.model(), best, found[best])


def _folds(people: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold of each row [E]: that of its user."""
    _, person = np.unique(people, return_inverse=True)
    drawn = np.random.default_rng(0).permutation(int(person.max()) + 1)
    return np.asarray(drawn[person] % _FOLDS, np.int64)


class _Additions:
    """What crosses add to rows [E]: the blended logits without it, and the crosses' share of the blend. Weights are
    fitted in log-odds of the score, whatever that share is."""

    def __init__(self, model: TrainedRanker, features: Features, rows: NDArray[np.int64], line: Line) -> None:
        self._trained = copy.deepcopy(model).eval()
        ranker = self._trained.ranker
        if not isinstance(ranker, Ranker) or ranker.crosses is None:
            raise RefreshError("the served model has no crosses, which a refresh would change; wait for the next night")
        if not ranker.blend[:, -1].any():
            # Crosses without a share add nothing: with a share, and without weights, it is the same model.
            ranker.blend[:, -1] = 1.0
            ranker.crosses.weights.zero_()
            ranker.crosses.base.zero_()
        opinions = predict_opinions(self._trained, features, rows)
        fresh, old = ranker.blend[:, -1].double().numpy()
        age = np.zeros(len(rows)) if opinions.age is None else opinions.age.numpy()
        self._crosses: Crosses = ranker.crosses
        self._curve, self._line = self._trained.calibrator.curve(), line
        self._blended: Floats = ranker.blended(opinions).numpy()
        self._share: Floats = fresh + age * (old - fresh)
        slope = line.slope * self._curve.slope(self._blended) * self._share
        self._scale = max(float(slope.mean()), _LEAST_SLOPE)
        self._slope = slope / self._scale
        self._cells = cells_of_rows(self._trained.adaptors.adapt(features), self._crosses, rows)
        self._base = 0.0

    def fit(self, labels: Floats, weights: Floats) -> Floats:
        """Fit to rows with weights [E], and return the corrected logits [E] of all rows."""
        known = self._line(self._curve(self._blended))
        rows = FitRows(labels, weights, known, self._slope)
        self._base = fit_crosses(self._cells.values(), rows)
        total = sum((one.logits(one.weights) for one in self._cells.values()), np.full(len(labels), self._base))
        return self._line(self._curve(self._blended + self._share / self._scale * total))

    @torch.no_grad()
    def model(self) -> TrainedRanker:
        """Return the model with what was fitted last."""
        self._crosses.base += self._base / self._scale
        for offset, one in self._cells.items():
            self._crosses.weights[offset : offset + len(one.weights)] += torch.from_numpy(one.weights / self._scale)
        return self._trained
