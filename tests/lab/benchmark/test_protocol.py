"""Frozen protocols: any setting that figures depend on changes the hash, what is only said of them does not."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.benchmark import command
from lab.benchmark.predictions import REQUEST_S, Predictions, keep, kept, rows_of
from lab.benchmark.protocol import Protocol
from lab.benchmark.vectors import NOTHING
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.ranker.features import build_features
from msd.ranker.model import RankerConfig
from msd.ranker.schema_fit import fit_schema
from msd.student.distill import DistillConfig
from msd.training.train import TrainConfig

ROOT = Path(__file__).parents[3]
COLD = command.BENCHMARKS["ml-100k-cold"]

# A protocol changes only on purpose: with a new hash here, all of its figures made again, and another look at test.
FROZEN = {
    "collm-ml-1m": "f820f50ac2f5fa668ca48b74716b34dc8472a68912f3324af6d17a3ac9302ee2",
    "ml-100k": "e43ff7dcc0e95c76d42b54e56ef3514bd2d46073ee7f958705a46272cba41d87",
    "ml-100k-cold": "528b504bdadeebb077d5db4f23f4e6d0cdbe667d8244be80ea375e6fb5e122e0",
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
        replace(COLD, delays_s=(0, 60)),
        replace(COLD, variants=(replace(COLD.variants[0], changes={"taste": False}), *COLD.variants[1:])),
    ],
)
def test_every_setting_changes_the_hash(changed: Protocol) -> None:
    assert changed.sha256() != COLD.sha256()


def test_every_model_is_on_the_page_of_protocols() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    table = page.partition("## Models")[2].partition("## ")[0]
    listed = {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall("`(.+?)`", row)}

    assert listed == {variant.name for protocol in command.BENCHMARKS.values() for variant in protocol.variants}


PREDICTIONS = Predictions({"frozen": np.array([0.1, 0.9]), "live": np.array([0.2, 0.3])}, 12.5)


def test_kept_predictions_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "ours-0.npz"
    keep(path, "abc", PREDICTIONS)
    found = kept(path, "abc")
    assert found is not None
    assert found.seconds == 12.5
    assert list(found.by_view) == ["frozen", "live"]
    for name, expected in PREDICTIONS.by_view.items():
        np.testing.assert_array_equal(found.by_view[name], expected)
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
    np.savez(path, fingerprint=np.array("abc"), valid=np.array([0.1]))
    assert kept(path, "abc") is None


def test_rows_of_a_part_are_in_the_datasets_order(tiny: Dataset) -> None:
    rows = rows_of(tiny, Part.TEST)
    parts = split_events(tiny.events, tiny.config)
    test = tiny.events.filter(parts == Part.TEST)
    assert rows.labels.tolist() == test["label"].to_list()
    assert rows.among.tolist() == (parts[parts >= Part.VALID] == Part.TEST).tolist()
    by_user = test.with_columns(number=pl.Series(rows.users)).group_by("user_id").agg(pl.col("number").n_unique())
    assert by_user["number"].to_list() == [1] * len(by_user)


def test_rows_of_a_request_know_nothing_of_each_other(tiny: Dataset) -> None:
    """With that delay of feedback, no impression in a row's history is of the row's request."""
    features = build_features(tiny, fit_schema(tiny, semantics=False), NOTHING, REQUEST_S)
    test, rows = features.of_part(Part.TEST), rows_of(tiny, Part.TEST)
    at = tiny.events["at"].to_numpy()[test]
    shown = features.history.numpy()[test] >= 0
    newest = np.where(shown, features.history_outcomes.numpy()[test, :, 2], np.inf).min(1) * 86_400
    assert shown.any()
    for request in np.unique(rows.requests):
        own = rows.requests == request
        assert np.ptp(at[own]) < REQUEST_S
        assert len(set(rows.users[own])) == 1
        assert (at[own] - newest[own] < at[own].min()).all()


def test_kept_results_are_of_the_frozen_protocols() -> None:
    """Figures in the repository stand for today's settings."""
    paths = list((ROOT / "lab" / "benchmark" / "results").glob("*.json"))
    assert paths
    for path in paths:
        kept = json.loads(path.read_text("utf-8"))
        assert kept["protocol"]["sha256"] == FROZEN[kept["benchmark"]]
