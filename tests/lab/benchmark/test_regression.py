"""The logistic regression: its columns, and that a user's mood and taste add to them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.benchmark.given import Fitted, Given
from lab.benchmark.regression import columns, regression, regression_mood, regression_taste
from lab.benchmark.vectors import NOTHING
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.metrics import roc_auc
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.teachers.knowledge import load_knowledge


@pytest.fixture(scope="module")
def given(tiny: Dataset, prepared: Path) -> Given:
    features = build_features(tiny, fit_schema(tiny, semantics=False), NOTHING).live()
    return Given(tiny, load_knowledge(prepared / "knowledge"), features, 0)


def test_columns_change_with_live_counts_alone(tiny: Dataset, given: Given) -> None:
    frozen = build_features(tiny, given.features.schema, NOTHING)
    changed = (columns(frozen) != columns(given.features)).any(0)
    assert 0 < changed.sum() <= 8  # four of the user and four of the item
    assert np.isfinite(columns(given.features)).all()


@pytest.mark.parametrize("fitted", [regression, regression_mood, regression_taste])
def test_regression_beats_chance(given: Given, fitted: Fitted) -> None:
    events = given.features.of_part(Part.VALID, Part.TEST)
    probabilities = fitted(given, events)
    assert roc_auc(given.features.labels.numpy()[events], probabilities) > 0.55


def test_mood_ignores_what_items_are(given: Given) -> None:
    events, history = given.features.of_part(Part.VALID), given.features.history
    same_item = history.where(history < 0, 0)
    other = given._replace(features=replace(given.features, history=same_item))
    np.testing.assert_allclose(regression_mood(other, events), regression_mood(given, events), atol=1e-6)
    assert not np.allclose(regression_taste(other, events), regression_taste(given, events))
