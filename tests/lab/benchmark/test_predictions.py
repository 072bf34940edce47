"""Predictions survive on disk, unless they are of something else or damaged; test rows are those of the split."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from lab.benchmark.predictions import Predictions, keep, kept, rows_of, valid_auc
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events

SAID = Predictions(np.array([0.1, 0.9]), np.array([0.2]), np.array([0.3]), 0.75, 12.5, 2.5)


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "ours-0.npz"
    keep(path, "abc", SAID)
    found = kept(path, "abc")
    assert found is not None
    for one, other in zip(found, SAID, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [file.name for file in path.parent.iterdir()] == ["ours-0.npz"]
    assert kept(path, "abd") is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY", b"no archive"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ours-0.npz"
    assert kept(path, "abc") is None
    path.write_bytes(content)
    assert kept(path, "abc") is None
    np.savez(path, fingerprint=np.array("abc"), valid=SAID.valid)
    assert kept(path, "abc") is None


def test_a_file_cut_anywhere_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "ours-0.npz"
    keep(path, "abc", SAID)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert kept(path, "abc") is None


def test_rows_are_the_test_part_and_warm_where_both_sides_were_trained_on(tiny: Dataset) -> None:
    rows = rows_of(tiny)
    parts = split_events(tiny.events, tiny.config)
    test, train = tiny.events.filter(parts == Part.TEST), tiny.events.filter(parts <= Part.TRAIN)
    assert rows.labels.tolist() == test["label"].to_list()
    by_user = test.with_columns(number=pl.Series(rows.users)).group_by("user_id").agg(pl.col("number").n_unique())
    assert by_user["number"].to_list() == [1] * len(by_user)
    seen = set(train["user_id"]), set(train["item_id"])
    expected = [user in seen[0] and item in seen[1] for user, item in test.select("user_id", "item_id").iter_rows()]
    assert rows.warm.tolist() == expected


def test_valid_auc_is_of_the_valid_rows(tiny: Dataset) -> None:
    labels = tiny.events["label"].to_numpy()[split_events(tiny.events, tiny.config) == Part.VALID]
    said = np.random.default_rng(0).random(len(labels))
    assert valid_auc(tiny, said) == pytest.approx(roc_auc_score(labels, said))
