"""MovieLens-100K as a benchmark: recorded knowledge is found; where items are hidden, nothing is known of users."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.benchmark import command
from lab.benchmark.cold import hide_items
from lab.benchmark.command import benchmark
from lab.benchmark.ml_100k import ML_100K_COLD, prepare, prepare_items
from lab.benchmark.protocol import BenchmarkError
from msd.dataset.load import load_dataset
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


def test_cold_items_are_measured_seed_by_seed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(command.BENCHMARKS, "ml-100k-cold", replace(quick(ML_100K_COLD), seeds=2))
    out = tmp_path / "cold.json"
    benchmark("ml-100k-cold", data, out, first=3, resamples=100)
    figures = json.loads(out.read_text())
    keys = {"auc_mean", "auc_std", "auc_without_semantics", "gain_auc", "gain_auc_ci95", "gain_p", "gain_test"}
    assert keys <= set(figures)
    linear = {"genres_year", "ridge", "bayesian_multi_task"}
    assert set(figures["baselines"]) == {"ours_without_semantics", *linear}
    assert set(figures["untaught"]["baselines"]) == {"ours_without_semantics", "category_prior", "genres_year"}
    assert set(figures["untaught"]["ablations"]) == {"without_distillation"}
    assert {"without_distillation", "bag_of_words", "teacher_text"} == set(figures["ablations"])
    rows = figures["protocol"]["test_rows"]
    assert set(rows) == {"3", "4"}
    assert all(0.1 < count / 480 < 0.3 for count in rows.values())
    printed = capsys.readouterr().out
    assert "items that the teacher wrote about beforehand" in printed
    assert "items with only a text" in printed
    # The untaught student's teacher knew no item of valid and test rows; one network scores with text and without.
    work = out.with_name("cold.work") / "ml-100k-cold"
    for seed in (3, 4):
        events = hide_items(load_dataset(data), seed).events
        held = set(events.filter(events["part"] != "train")["item_id"])
        assert held
        assert set(load_knowledge(work / "untaught" / f"knowledge-{seed}").items) == set(events["item_id"]) - held
        encoded, prior = (
            np.load(work / "predictions" / f"{name}-{seed}.npz") for name in ("encoded", "category_prior")
        )
        assert np.array_equal(encoded["valid"], prior["valid"])
        assert not np.array_equal(encoded["test"], prior["test"])
        assert (work / "models" / f"encoded-{seed}").is_dir()
        assert not (work / "models" / f"category_prior-{seed}").exists()
