"""MovieLens-100K as a benchmark: recorded knowledge is found; where items are hidden, nothing is known of users."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.benchmark import command
from lab.benchmark.cold import HELD, hide_items
from lab.benchmark.command import benchmark
from lab.benchmark.ml_100k import ML_100K_COLD, prepare, prepare_items
from lab.benchmark.protocol import BenchmarkError
from lab.benchmark.vectors import NOBODY
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part, split_events
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import StudentVectors
from msd.teachers.knowledge import load_knowledge, load_record
from tests.dataset.tiny import write_tiny_dataset
from tests.lab.benchmark.made import Steps, quick, write_ml_100k_like


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ml_100k_like(tmp_path_factory.mktemp("ml-100k"))


def test_knowledge_is_looked_up_and_hidden_items_have_none_of_users(data: Path, tmp_path: Path) -> None:
    steps = Steps()
    first = prepare(data, tmp_path / "whole", steps)
    whole = load_knowledge(first.knowledge)
    assert first.dataset == data
    assert (len(whole.items), len(whole.users)) == (40, 16)
    assert ("looking up what is known of items", 40, 40) in steps
    assert prepare(data, tmp_path / "whole", steps) == first
    folders = prepare_items(data, tmp_path / "items", steps)
    assert load_knowledge(folders.knowledge).items == whole.items
    assert load_knowledge(folders.knowledge).users == {}
    assert load_record(folders.knowledge).users == 0
    before = (folders.knowledge / "items.jsonl").read_bytes()
    assert prepare_items(data, tmp_path / "items", steps) == folders
    assert (folders.knowledge / "items.jsonl").read_bytes() == before
    tiny = write_tiny_dataset(tmp_path / "tiny")
    with pytest.raises(BenchmarkError, match="holds the dataset 'tiny'; DATASET is the folder that `msd data ml-100k`"):
        prepare(tiny, tmp_path / "work", steps)


def test_cold_items_are_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(command.BENCHMARKS, "ml-100k-cold", replace(quick(ML_100K_COLD), seeds=1))
    out = tmp_path / "cold.json"
    benchmark("ml-100k-cold", data, out, first=3, resamples=100, test=True)
    figures = json.loads(out.read_text())
    taught, untaught = (figures["views"][kind]["lines"] for kind in ("taught", "untaught"))
    words = {"plain_text", "bag_of_words"}
    assert set(taught) == {"ours", "ours_without_semantics", "genres_year", "ridge", "bayesian_multi_task", *words}
    assert set(untaught) == {"encoded", "ours_without_semantics", "category_prior", "genres_year", "plain_text"}
    rows = figures["protocol"]["rows"]
    assert set(rows) == {"3"}
    assert all(0.1 < count / 480 < 0.3 for count in rows.values())
    printed = capsys.readouterr().out
    assert "ml-100k-cold: test, taught" in printed
    assert "ml-100k-cold: test, untaught" in printed
    # The untaught student's teacher knew no item of valid and test rows; one network scores with text and without.
    work = out.with_name("cold.work") / "ml-100k-cold"
    events = hide_items(load_dataset(data), 3).events
    held = set(events.filter(events["part"] != "train")["item_id"])
    assert held
    assert set(load_knowledge(work / "untaught" / "knowledge-3").items) == set(events["item_id"]) - held
    encoded, prior = (
        np.load(work / "predictions" / f"{name}-3-0.npz")["frozen"] for name in ("encoded", "category_prior")
    )
    assert not np.array_equal(encoded, prior)
    assert (work / "models" / "encoded-3-0").is_dir()
    assert not (work / "models" / "category_prior-3-0").exists()


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
    assert not features.timeline.item.fresh.impressions[test].any()
    assert not features.timeline.item.fresh.clicks[test].any()
    rows = features.item.rows.numpy()
    assert not np.isin(features.timeline.history, rows[test]).any()
    held = rows[features.of_part(Part.VALID)]
    assert not np.isin(features.timeline.history[features.of_part(Part.TRAIN, Part.VALID)], held).any()


def test_test_rows_have_the_whole_history_of_training(cold: Dataset, features: Features) -> None:
    shown = cold.events.filter(pl.col("part") != "test").group_by("user_id").agg(pl.col("item_id").n_unique())
    expected = dict(shown.iter_rows())
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
