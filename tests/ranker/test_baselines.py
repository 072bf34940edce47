"""The regression baseline finds laws of IDs, fields and crosses, knows no future, and has bounded weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.evaluation import regression
from msd.evaluation.regression import _ABSENT, _COLUMNS, Fields, Outcomes, Regression, fields_of, regression_baseline
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from tests.ranker.made import dataset_of

USERS, ITEMS, EACH = 60, 40, 80
FIELDS: list[dict[str, Any]] = [
    {"name": "device", "side": "context", "kind": "categorical"},
    {"name": "topics", "side": "item", "kind": "bag", "max_values": 3},
    {"name": "price", "side": "item", "kind": "numeric"},
]


def _world(crossed: bool) -> Features:
    """Clicks that depend on device and topic together, neither alone, or on user and price, one by one."""
    draws = np.random.default_rng(5)
    devices, topics = draws.integers(0, 4, USERS * EACH), draws.integers(0, 4, ITEMS)
    items, price, mood = draws.integers(0, ITEMS, USERS * EACH), draws.normal(size=ITEMS), draws.normal(size=USERS)
    users = np.repeat(np.arange(USERS), EACH)
    logits = np.where(devices == topics[items], 2.0, -1.0) if crossed else mood[users] - 2.0 * np.abs(price[items])
    labels = draws.random(len(users)) < 1 / (1 + np.exp(-logits))
    rows = [
        (f"u{user}", f"i{item}", 60 * place, int(label))
        for place, (user, item, label) in enumerate(zip(users, items, labels, strict=True))
    ]
    columns: dict[str, list[Any]] = {
        "item_id": [f"i{item}" for item in range(ITEMS)],
        "title": [""] * ITEMS,
        "topics": [["all", f"t{topic}"] if topic else [f"t{topic}"] for topic in topics],
        "price": [None if item == 0 else float(price[item]) for item in range(ITEMS)],
    }
    return _features(
        dataset_of(rows, events={"device": [f"d{one}" for one in devices]}, items=columns, features=FIELDS)
    )


def _features(dataset: Dataset) -> Features:
    return build_features(dataset, fit_schema(dataset, semantics=False), no_vectors())


def _auc(features: Features, probabilities: NDArray[np.float64]) -> float:
    return float(roc_auc_score(features.outcomes(features.of_part(Part.TEST))[0], probabilities))


@pytest.mark.parametrize(("crossed", "least"), [(True, 0.68), (False, 0.75)])
def test_regression_learns_crosses_and_fields_and_keeps_crosses_where_valid_says_so(
    crossed: bool, least: float
) -> None:
    features = _world(crossed)
    found = regression_baseline(features, features.of_part(Part.TEST))
    assert ((found > 0) & (found < 1)).all()
    assert _auc(features, found) > least
    fields, parts = fields_of(features), (features.of_part(Part.TRAIN), features.of_part(Part.VALID))
    outcomes = Outcomes(*parts, *features.outcomes(np.arange(len(features.parts))))
    plain, whole = (Regression.of(fields, outcomes, one) for one in (False, True))
    assert (whole.logloss < plain.logloss) == crossed
    if crossed:
        assert _auc(features, plain.predict(fields, features.of_part(Part.TEST))) < 0.6 < least


def test_regression_is_frozen_at_the_end_of_train() -> None:
    features = _world(crossed=True)
    test = features.of_part(Part.TEST)
    other = features.labels.clone()
    other[test] = 1 - other[test]
    flipped = replace(features, labels=other)
    assert np.array_equal(regression_baseline(features, test), regression_baseline(flipped, test))


def test_crosses_of_any_size_share_a_bounded_number_of_columns() -> None:
    users, items = (np.random.default_rng(seed).integers(0, 10**4, (5_000, 2)).astype(np.int32) for seed in (0, 1))
    users[0, 1] = _ABSENT
    fields = Fields([users[:, :1], users], [items[:, :1], items])
    columns = fields.columns(np.arange(5_000), crossed=True)
    assert columns.shape == (5_000, fields.width(crossed=True)) == (5_000, 6 + 2 + 4)
    assert columns.max() < _COLUMNS
    # The user's second value and both its crosses are absent; nothing is crossed with the item's ID.
    assert (columns[0] == _ABSENT).sum() == 1 + 2
    pairs = columns[1:, -4:].ravel()
    assert len(np.unique(pairs)) > 0.98 * len(pairs), "pairs differ, as far as 2²⁰ columns allow"


def test_long_logs_train_on_their_latest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    features = _world(crossed=True)
    monkeypatch.setattr(regression, "_CELLS", 20_000)
    old = features.of_part(Part.WINDOW, Part.TRAIN)[:1_000]
    labels = features.labels.clone()
    labels[old] = 1 - labels[old]
    test = features.of_part(Part.TEST)
    flipped = replace(features, labels=labels)
    assert np.array_equal(regression_baseline(features, test), regression_baseline(flipped, test))
