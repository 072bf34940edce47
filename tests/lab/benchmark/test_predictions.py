"""Predictions are kept on disk unless damaged or of other inputs; test rows are those of the split."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from lab.benchmark.predictions import Predictions, keep, kept, rows_of, valid_auc
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events

PREDICTIONS = Predictions(np.array([0.1, 0.9]), np.array([0.2]), np.array([0.3]), 0.75, 12.5)


def test_kept_predictions_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "ours-0.npz"
    keep(path, "abc", PREDICTIONS)
    found = kept(path, "abc")
    assert found is not None
    for value, expected in zip(found, PREDICTIONS, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert [file.name for file in path.parent.iterdir()] == ["ours-0.npz"]
    assert kept(path, "abd") is None


def test_damaged_file_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "ours-0.npz"
    assert kept(path, "abc") is None
    keep(path, "abc", PREDICTIONS)
    whole = path.read_bytes()
    cut = [whole[:length] for length in range(0, len(whole), 97)]
    for content in (*cut, b"PK\x03\x04 cut short", b"\x93NUMPY", b"no archive"):
        path.write_bytes(content)
        assert kept(path, "abc") is None
    np.savez(path, fingerprint=np.array("abc"), valid=PREDICTIONS.valid)
    assert kept(path, "abc") is None


def test_rows_are_warm_if_both_sides_were_trained_on(tiny: Dataset) -> None:
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
    probabilities = np.random.default_rng(0).random(len(labels))
    assert valid_auc(tiny, probabilities) == pytest.approx(roc_auc_score(labels, probabilities))
