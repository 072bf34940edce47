"""Hidden items: which rows are test, that nothing of them can be learned, and what their users are known by."""

import numpy as np
import polars as pl
import pytest

from lab.benchmark.cold import HELD, hide_items
from lab.benchmark.vectors import NOBODY
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import StudentVectors


def _features(dataset: Dataset) -> Features:
    return build_features(dataset, fit_schema(dataset, semantics=False), StudentVectors("none", NOBODY, NOBODY))


@pytest.fixture(scope="module")
def cold(tiny: Dataset) -> Dataset:
    return hide_items(tiny, 3)


@pytest.fixture(scope="module")
def features(cold: Dataset) -> Features:
    return _features(cold)


def _items_of(dataset: Dataset, part: str) -> set[str]:
    return set(dataset.events.filter(pl.col("part") == part)["item_id"])


def test_parts_go_by_item(tiny: Dataset, cold: Dataset) -> None:
    ids = tiny.items["item_id"].to_numpy()
    hidden = set(ids[np.random.default_rng(3).permutation(len(ids))[: round(0.2 * len(ids))]])
    train, valid, test = (_items_of(cold, part) for part in ("train", "valid", "test"))
    assert test == hidden & set(tiny.events["item_id"])
    assert len(valid) <= round(HELD * (len(ids) - len(hidden)))
    assert train | valid | test == set(tiny.events["item_id"])
    assert len(train) + len(valid) + len(test) == tiny.events["item_id"].n_unique()


def test_events_keep_their_labels_and_training_rows_their_times(tiny: Dataset, cold: Dataset) -> None:
    columns, key = ["user_id", "item_id", "label"], ["user_id", "item_id", "at"]
    assert cold.events.select(columns).sort(columns).equals(tiny.events.select(columns).sort(columns))
    assert np.array_equal(split_events(cold.events, cold.config), [Part[part.upper()] for part in cold.events["part"]])
    train = cold.events.filter(part="train").select(key)
    assert train.join(tiny.events.select(key).unique(), on=key, how="semi").height == train.height
    assert cold.events["at"].is_sorted()


def test_hidden_item_has_neither_id_nor_counts_and_is_in_no_history(features: Features) -> None:
    test, train = features.of_part(Part.TEST), features.of_part(Part.TRAIN)
    column = features.schema.columns["item_id"]
    ids = features.item.entities.categorical[:, column][features.item.rows.numpy()]
    assert len(np.unique(ids[test])) == 1
    assert len(np.unique(ids[train])) > 1
    assert not features.timeline.item_counts.impressions[test].any()
    assert not features.timeline.item_counts.clicks[test].any()
    rows = features.item.rows.numpy()
    assert not np.isin(features.timeline.history, rows[test]).any()
    held = rows[features.of_part(Part.VALID)]
    assert not np.isin(features.timeline.history[features.of_part(Part.TRAIN, Part.VALID)], held).any()


def test_test_rows_have_the_whole_history_of_training(cold: Dataset, features: Features) -> None:
    liked = cold.events.filter((pl.col("part") != "test") & (pl.col("label") == 1)).group_by("user_id").len()
    expected = dict(liked.iter_rows())
    length = features.history.shape[1]
    test = features.of_part(Part.TEST)
    for event in test[:: max(1, len(test) // 50)]:
        user = cold.events["user_id"][int(event)]
        assert (features.history[event] >= 0).sum() == min(length, expected.get(user, 0))


def test_labels_of_hidden_items_change_no_features(tiny: Dataset, cold: Dataset) -> None:
    hidden = pl.Series(sorted(_items_of(cold, "test"))).implode()
    flipped = pl.when(pl.col("item_id").is_in(hidden)).then(1 - pl.col("label")).otherwise(pl.col("label"))
    other = Dataset(**{**vars(tiny), "events": tiny.events.with_columns(label=flipped.cast(pl.Int8))})
    before, after = _features(cold), _features(hide_items(other, 3))
    assert np.array_equal(before.parts, after.parts)
    assert np.array_equal(before.history, after.history)
    for side, same in ((before.user, after.user), (before.item, after.item)):
        assert np.array_equal(side.dense, same.dense)
        assert np.array_equal(side.aged_dense, same.aged_dense)


def test_seeds_differ_and_repeat(tiny: Dataset, cold: Dataset) -> None:
    again, other = hide_items(tiny, 3), hide_items(tiny, 4)
    assert again.fingerprint == cold.fingerprint
    assert again.events.equals(cold.events)
    assert other.fingerprint != cold.fingerprint
    assert _items_of(other, "test") != _items_of(cold, "test")
