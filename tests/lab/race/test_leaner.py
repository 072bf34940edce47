"""Each change is made where it says and nowhere else; a leaner model is as good only where the rows show it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.race.figures import Timed, summarised_leaner
from lab.race.leaner import AUC_MARGIN, Study, compared, leaner_models
from lab.race.runners import in_onnxruntime
from lab.race.subject import Subject
from lab.reference.clicks import Clicks
from lab.reference.graphs import plain_graph
from lab.reference.inputs import random_feeds
from lab.reference.network import LEANER, Change, Lean, lively, made
from lab.reference.training import new_held, trained_reference, weights_of
from tests.lab.reference.small import BRIEF, FEW, SMALL

_PARTS = {Change.CROSS: "cross", Change.ATTENTION: "attention", Change.MLP: "mlp"}


@pytest.fixture(scope="module")
def rows() -> Clicks:
    return new_held(SMALL, BRIEF, 150, 20, 3)


def _noisy(rows: Clicks, seed: int, much: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(rows.chances.shape)
    logits = np.log(rows.chances / (1 - rows.chances)) + much * noise
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


@pytest.mark.parametrize("change", Change)
def test_a_change_alone_leaves_all_else_as_it_was(change: Change) -> None:
    before, after = made("reference", SMALL, 0), made(change.value, SMALL, 0)
    shapes = [{name: one.shape for name, one in network.state_dict().items()} for network in (before, after)]
    differ = {name.split(".")[0] for name, _ in shapes[0].items() ^ shapes[1].items()}

    assert isinstance(after, Lean)
    assert differ == {_PARTS[change]}
    assert sum(one.numel() for one in after.parameters()) < sum(one.numel() for one in before.parameters())


@pytest.mark.parametrize("name", LEANER)
def test_the_pass_keeps_the_scores_of_each(name: str) -> None:
    subject = Subject(name, lively(made(name, SMALL, 0)), SMALL)
    feeds = subject.request(30, seed=2)
    plain, passed = (in_onnxruntime(graph)(feeds)[0] for graph in (subject.plain, subject.passed.model))

    assert subject.proved() <= 1e-12
    assert np.allclose(plain, passed, atol=1e-5)


def test_empty_places_of_the_history_get_no_attention() -> None:
    lean = lively(made("dot_attention", SMALL, 0))
    feeds = random_feeds(SMALL, 9, 0)
    run = in_onnxruntime(plain_graph(lean, lean, SMALL))
    before = run(feeds)[0]
    history = feeds["history"].copy()
    history[feeds["history_mask"] == 0] = 100

    assert np.array_equal(run({**feeds, "history": history})[0], before)
    history[feeds["history_mask"] != 0] = 1
    assert not np.array_equal(run({**feeds, "history": history})[0], before)


def test_a_model_is_as_good_as_itself_and_not_as_one_that_knows_more(rows: Clicks) -> None:
    reference = [_noisy(rows, seed, 0.3) for seed in range(3)]
    found = compared(rows, reference, {"same": reference, "worse": [_noisy(rows, seed, 1.5) for seed in range(3)]})

    assert found["same"].as_good
    assert found["same"].auc.ci95 == (0.0, 0.0)
    assert not found["worse"].as_good
    assert found["worse"].auc.difference == pytest.approx(np.mean(found["worse"].auc.by_seed))
    assert found["worse"].auc.difference < -AUC_MARGIN
    assert found["worse"].logloss.difference > 0


def test_a_difference_of_the_mean_within_the_margin_is_not_enough(rows: Clicks) -> None:
    """Seeds that differ by more than the margin leave it open which model is better, and an open question is no yes."""
    reference = [_noisy(rows, seed, 0.8) for seed in range(3)]
    other = [_noisy(rows, 10 + seed, 0.8) for seed in range(3)]
    found = compared(rows, reference, {"other": other})["other"]

    assert found.auc.ci95 is not None
    assert found.auc.ci95[0] < -AUC_MARGIN
    assert not found.as_good


def test_few_seeds_do_not_tell(rows: Clicks) -> None:
    reference = [_noisy(rows, seed, 0.3) for seed in range(2)]

    assert compared(rows, reference, {"same": reference})["same"].as_good is None


def test_each_is_trained_once_from_each_seed(tmp_path: Path) -> None:
    reference = trained_reference(tmp_path, SMALL, BRIEF, lambda *_: None)
    heard: list[tuple[int, int]] = []
    found = leaner_models(tmp_path, SMALL, BRIEF, FEW, reference, lambda *done: heard.append(done))

    assert found.keys() == LEANER.keys()
    assert heard == [(number, 10) for number in range(10)]
    assert all(weights_of(tmp_path, name, seed).exists() for name in ("reference", *LEANER) for seed in (0, 1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = leaner_models(tmp_path, SMALL, BRIEF, FEW, reference, lambda *_: None)
    assert {name: one.comparison for name, one in again.items()} == {
        name: one.comparison for name, one in found.items()
    }
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


def test_one_seed_is_of_the_leanest_alone() -> None:
    assert Study().names == ("lean",)
    assert Study(seeds=2).names == tuple(LEANER)


def test_a_precision_that_the_gate_refused_is_not_the_best() -> None:
    times = {
        "tiled": {200: 60.0, 1_000: 300.0},
        "passed": {200: 20.0, 1_000: 100.0},
        "lean fp32": {200: 10.0, 1_000: 50.0},
        "lean int8": {200: 5.0, 1_000: 30.0},
        "lean bf16": {200: 1.0, 1_000: 1.0},
    }
    told = summarised_leaner(Timed(times, times), "lean", ["fp32", "int8"])

    assert (told["graph_ratio_fp32_n200"], told["graph_ratio_fp32_n1000"]) == (6.0, 6.0)
    assert (told["precision"], told["graph_ratio_best_n200"], told["graph_ratio_best_n1000"]) == ("int8", 12.0, 10.0)
    assert told["in_blocks"]["graph_ratio_best_n200"] == 12.0
    assert told["slope_us_best"] == pytest.approx(25 / 800, abs=1e-4)
    assert told["ratios_to_passed"] == {"fp32": {"200": 2.0, "1000": 2.0}, "int8": {"200": 4.0, "1000": 3.3333}}
