"""Logistic regression on IDs and fields, with or without crosses of the user and the context with the item: a baseline
that any platform has. It knows no counts, no history and no vectors."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression

from msd.contract.schema import Bag, Categorical, Side
from msd.dataset.split import Part
from msd.metrics import Labels, Probabilities, Weights, mean_logloss, sigmoid
from msd.ranker.features import Features

_STRENGTHS = (0.01, 0.03, 0.1, 0.2, 0.3, 1.0, 3.0, 10.0)  # scikit-learn's C: smaller values shrink more
_BINS = 16  # of a number
_COLUMNS = 2**20  # after hashing, so that a cross of any size fits into memory
_CELLS = 2**25  # ones in the matrix, 400 MB
_PRIME, _SHIFT = np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_ABSENT = -1

Codes = NDArray[np.int32]
Events = NDArray[np.int64]


class Outcomes(NamedTuple):
    """Events to fit on and to choose by, with labels and weights [E] of all events."""

    trained: Events
    valid: Events
    labels: Labels
    weights: Weights


class Fields(NamedTuple):
    """Codes [E, W] of each field by event, _ABSENT where it has fewer than W values: of the user and the context, and
    of the item. The first of either side is its ID."""

    left: Sequence[Codes]
    right: Sequence[Codes]

    def pairs(self, crossed: bool) -> Iterator[tuple[Codes, ...]]:
        """Yield each field alone and, if `crossed`, each pair of sides but those of the item's ID, whose crosses are
        too rare to gain."""
        yield from ((field,) for field in (*self.left, *self.right))
        if crossed:
            yield from ((left, right) for left in self.left for right in self.right[1:])

    def width(self, crossed: bool) -> int:
        """Return the most ones of an event."""
        return sum(int(np.prod([field.shape[1] for field in pair])) for pair in self.pairs(crossed))

    def columns(self, events: Events, crossed: bool) -> Codes:
        """Return the columns [n, width] of events, hashed; _ABSENT where there is no value."""
        found, start = np.full((len(events), self.width(crossed)), _ABSENT, np.int32), 0
        for number, pair in enumerate(self.pairs(crossed)):
            first, *rest = (field[events] for field in pair)
            hashed, present = _mixed(first, _mixed(np.array([number + 1]), np.uint64(0))), first >= 0
            for other in rest:
                hashed = _mixed(other[:, None, :], hashed[:, :, None]).reshape(len(events), -1)
                present = (present[:, :, None] & (other >= 0)[:, None, :]).reshape(len(events), -1)
            end = start + hashed.shape[1]
            found[:, start:end] = np.where(present, (hashed % np.uint64(_COLUMNS)).astype(np.int32), _ABSENT)
            start = end
        return found


def regression_baseline(features: Features, events: Events) -> Probabilities:
    """Return click probabilities [len(events)] of the regression, trained on window and train rows: the latest of them
    if all have more than 2²⁵ ones. The penalty, and whether it has crosses, are chosen by logloss on the valid rows."""
    fields = fields_of(features)
    parts = features.of_part(Part.WINDOW, Part.TRAIN), features.of_part(Part.VALID)
    outcomes = Outcomes(*parts, *features.outcomes(np.arange(len(features.parts))))
    tried = [Regression.of(fields, outcomes, crossed) for crossed in (False, True)]
    return min(tried, key=lambda one: one.logloss).predict(fields, events)


class Regression(NamedTuple):
    """A fitted regression with its logloss on the valid events: `places` [2²⁰] of columns among its weights."""

    crossed: bool
    places: Codes
    weights: NDArray[np.float64]
    intercept: float
    logloss: float

    @classmethod
    def of(cls, fields: Fields, outcomes: Outcomes, crossed: bool) -> "Regression":
        """Fit with weaker and weaker penalties while the logloss on valid events falls."""
        trained, valid, labels, weights = outcomes
        trained = trained[-max(1, _CELLS // fields.width(crossed)) :]
        columns = fields.columns(trained, crossed)
        known = np.unique(columns[columns >= 0])
        places = np.full(_COLUMNS, _ABSENT, np.int32)
        places[known] = np.arange(len(known))
        matrix = _matrix(places, columns, len(known))
        model = LogisticRegression(max_iter=1_000)
        best: Regression | None = None
        for strength in _STRENGTHS:
            model.set_params(C=strength).fit(matrix, labels[trained], weights[trained] / weights[trained].mean())
            found = cls(crossed, places, model.coef_[0].copy(), float(model.intercept_[0]), np.inf)
            found = found._replace(logloss=mean_logloss(labels[valid], found.predict(fields, valid), weights[valid]))
            if best and found.logloss >= best.logloss:
                break
            best = found
        assert best is not None, "there are penalties"
        return best

    def predict(self, fields: Fields, events: Events) -> Probabilities:
        """Return click probabilities [len(events)]. Values that training did not see weigh nothing."""
        found, step = np.zeros(len(events)), max(1, _CELLS // fields.width(self.crossed))
        for start in range(0, len(events), step):
            part = slice(start, start + step)
            columns = fields.columns(events[part], self.crossed)
            logits = _matrix(self.places, columns, len(self.weights)) @ self.weights + self.intercept
            found[part] = sigmoid(logits)
        return found


def _matrix(places: Codes, columns: Codes, width: int) -> sparse.csr_matrix:
    """Return the ones [n, width] of columns [n, W] that have a place."""
    held = np.where(columns >= 0, places[columns], _ABSENT)
    kept = held >= 0
    ends = np.concatenate([[0], np.cumsum(kept.sum(1))])
    return sparse.csr_matrix((np.ones(int(ends[-1])), held[kept], ends), shape=(len(columns), width))


def fields_of(features: Features) -> Fields:
    """Return all fields of a dataset but texts."""
    user, item = (
        [side.rows.numpy()[:, None], *(codes[side.rows.numpy()] for codes in _of_side(features, side.entities.side))]
        for side in (features.user, features.item)
    )
    return Fields([*user, *_of_side(features, "context")], item)


def _of_side(features: Features, side: Side) -> Iterator[Codes]:
    """Yield the codes [rows, W] of each field of a side but its ID; its rows are entities, those of the context
    events."""
    schema = features.schema
    if side == "context":
        categorical, numeric = features.context_categorical.numpy(), features.context_dense.numpy()
        trained = features.of_part(Part.WINDOW, Part.TRAIN)
    else:
        entities = (features.user if side == "user" else features.item).entities
        categorical, numeric, trained = entities.categorical, entities.numeric, np.arange(entities.unknown)
    for field in schema.indexed(side):
        values = categorical[:, schema.columns[field.name]]
        if isinstance(field, Bag):
            yield np.where(values > 0, values, _ABSENT)
        elif isinstance(field, Categorical) and not field.is_id:
            yield values
    for number in schema.numerics(side):
        value, is_missing = numeric[:, schema.columns[number.name]].T
        edges = (
            np.unique(np.quantile(value[trained], np.linspace(0, 1, _BINS + 1)[1:-1])) if len(trained) else value[:0]
        )
        binned = np.searchsorted(edges, value, "right") + 1
        yield np.where(is_missing > 0, 0, binned).astype(np.int32)[:, None]


def _mixed(codes: NDArray[Any], hashed: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Return hashes of codes after those before them."""
    mixed = (codes.astype(np.uint64) ^ hashed) * _PRIME
    return mixed ^ (mixed >> _SHIFT)
