"""The linear models: what they know of items, that they find the weights data was made with, and beat chance."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lab.benchmark.cold import hide_items
from lab.benchmark.given import Fitted, Given
from lab.benchmark.linear import (
    attributes_linear,
    bayesian_linear,
    fit_bayesian,
    fit_ridge,
    ridge_linear,
    words,
)
from lab.benchmark.vectors import NOBODY
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import StudentVectors
from msd.teachers.knowledge import load_knowledge

USERS, WIDTH = 60, 5


@pytest.fixture(scope="module")
def given(tiny: Dataset, prepared: Path) -> Given:
    cold = hide_items(tiny, 0)
    schema = fit_schema(cold, semantics=False)
    features = build_features(cold, schema, StudentVectors("none", NOBODY, NOBODY))
    return Given(cold, load_knowledge(prepared / "knowledge"), features, 0)


def _made(rows: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users of rows, what their items are, labels, and the true weights: a common part, and two directions of taste."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=WIDTH) + rng.normal(size=(USERS, 2)) @ rng.normal(size=(2, WIDTH))
    user, x = np.repeat(np.arange(USERS), rows), rng.normal(size=(USERS * rows, WIDTH))
    return user, x, (weights[user] * x).sum(1) + noise * rng.normal(size=len(user)), weights


def test_users_with_few_rows_lean_on_the_others() -> None:
    user, x, label, weights = _made(rows=3, noise=0.3)
    alone = np.stack([np.linalg.lstsq(x[user == one], label[user == one], rcond=None)[0] for one in range(USERS)])
    learned = fit_bayesian(user, x, label, USERS)
    assert ((learned - weights) ** 2).mean() < 0.8 * ((alone - weights) ** 2).mean()
    assert ((learned - weights) ** 2).mean() < ((fit_ridge(user, x, label, USERS) - weights) ** 2).mean()


def test_words_are_the_teachers_or_zero(given: Given) -> None:
    known = dict(given.knowledge.items)
    missing = next(iter(known))
    del known[missing]
    result = words(given.features, known, 4)
    place = given.features.item.entities.place
    assert result.shape == (len(place) + 1, 4)
    assert not result[place[missing]].any()
    assert not result[-1].any()
    held = result[[place[one] for one in known]]
    assert held.std() == pytest.approx(1.0, abs=0.05)
    assert held.var(0).argmax() == 0
    assert words(given.features, dict(list(known.items())[:3]), 64).shape[1] <= 3


@pytest.mark.parametrize("fitted", [attributes_linear, ridge_linear, bayesian_linear])
def test_probabilities_that_beat_chance_on_hidden_items(given: Given, fitted: Fitted) -> None:
    events = given.features.of_part(Part.VALID, Part.TEST)
    probabilities = fitted(given, events)
    label = given.features.labels.numpy()[events]
    assert probabilities.shape == events.shape
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert roc_auc_score(label, probabilities) > 0.55


def test_valid_rows_are_scored_without_their_own_labels(given: Given) -> None:
    valid, test = given.features.of_part(Part.VALID), given.features.of_part(Part.TEST)
    labels = given.features.labels.clone()
    labels[valid] = 1 - labels[valid]
    other = given._replace(features=type(given.features)(**{**vars(given.features), "labels": labels}))
    assert np.array_equal(ridge_linear(given, valid), ridge_linear(other, valid))
    assert not np.allclose(ridge_linear(given, test), ridge_linear(other, test))
