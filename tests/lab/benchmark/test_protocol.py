"""Frozen protocols: any setting that figures depend on changes the hash, what is only said of them does not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from lab.benchmark import command
from lab.benchmark.predictions import Predictions, keep, kept, rows_of, valid_auc
from lab.benchmark.protocol import Protocol
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.ranker.model import RankerConfig
from msd.student.distill import DistillConfig
from msd.training.train import TrainConfig

ROOT = Path(__file__).parents[3]
COLD = command.BENCHMARKS["ml-100k-cold"]

# A protocol changes only on purpose: with a new hash here, all of its figures made again, and another look at test.
FROZEN = {
    "collm-ml-1m": "86227de67444d9d4004d4da04409850aea62a3bb61a82a42108100e422a0d41f",
    "ml-100k": "35b25bb7f2db41632c53a3acd5c1bc7f8a4bf80731427a4636bed00658046fe1",
    "ml-100k-cold": "5ab182c2ad917d1e2dcf312075114680a4f34a3434e385752c38b347360f6b6c",
}


def test_protocols_are_the_published_ones_and_looks_are_not_hashed() -> None:
    assert {name: protocol.sha256() for name, protocol in command.BENCHMARKS.items()} == FROZEN
    assert replace(COLD, looks=(*COLD.looks, "once more")).sha256() == COLD.sha256()
    assert json.loads(json.dumps(COLD.frozen())) == COLD.frozen()


@pytest.mark.parametrize(
    "changed",
    [
        replace(COLD, seeds=3),
        replace(COLD, hidden=0.3),
        replace(COLD, ranker=RankerConfig(affinity=8)),
        replace(COLD, training=TrainConfig(learning_rate=1e-3)),
        replace(COLD, distilling=DistillConfig(holdout=0.2)),
        replace(COLD, variants=COLD.variants[:-1]),
        replace(COLD, variants=(replace(COLD.variants[0], changes={"counts": ()}), *COLD.variants[1:])),
    ],
)
def test_every_setting_changes_the_hash(changed: Protocol) -> None:
    assert changed.sha256() != COLD.sha256()


def test_every_model_is_on_the_page_of_protocols() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    table = page.partition("## Models")[2].partition("## ")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall("`(.+?)`", row)}

    assert listed == {variant.name for protocol in command.BENCHMARKS.values() for variant in protocol.variants}


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
