"""`msd lab graph` on small models: every figure is there; graphs in every form score alike."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.race import graph, leaner
from lab.race.graph import GraphPlan
from lab.race.leaner import AUC_MARGIN, Study, compared
from lab.race.runners import forms_of, in_onnxruntime, in_openvino
from lab.race.subject import Subject
from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.graphs import plain_graph
from lab.reference.inputs import random_feeds
from lab.reference.network import NETWORKS, lively, made
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from tests.lab.reference.small import BRIEF, SMALL, network
from tests.service.live import run_msd

# Just so large that its layers are worth rounding to int8.
ROUNDED = replace(SMALL, vector=16, fields=4, embedding=8, history=6, attention=16, hidden=(32, 32, 16), rank=8)


def test_command_writes_figures_tables_and_picture(tmp_path: Path) -> None:
    options = ("--work", str(tmp_path / "work"), "--seconds", "0", "--lean-seeds", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "GraphPlan", partial(GraphPlan, sizes=ROUNDED, training=BRIEF))
        patch.setattr(leaner, "Study", partial(Study, requests=40, candidates=10))
        done = run_msd("lab", "graph", "--out", str(tmp_path / "graph.json"), *options)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "graph.json").read_text(), parse_constant=pytest.fail)

    assert figures["pass_ratios"].keys() == NETWORKS.keys()
    assert all(ratios.keys() == {"20", "50", "200", "1000"} for ratios in figures["pass_ratios"].values())
    assert 0 <= figures["fp64_max_diff"] <= 1e-12
    assert figures["machine"]["versions"]["onnxruntime"]
    raced, not_possible = figures["microseconds"], figures["not_possible"]
    has_int8 = adds_int8_exactly(cpu_instructions())
    always = {"tiled", "plain", "passed", "twin", "products"}
    assert raced["reference"].keys() - {"bf16"} == always | ({"int8"} if has_int8 else set())
    assert raced["lean"].keys() >= {"tiled", "plain", "passed"}
    assert sorted([*(raced["reference"].keys() & {"int8", "bf16"}), *not_possible]) == ["bf16", "int8"]
    study = figures["study"]
    assert (study["seeds"], study["rows"], study["as_good"]) == (2, 400, None)
    assert 0.5 < study["auc"]["reference"] < study["law_auc"]
    assert all(name in done.stdout for name in (*NETWORKS, "tiled", "too few seeds", "graph.json"))
    assert (tmp_path / "graph.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("name", NETWORKS)
def test_passed_graph_and_twin_score_as_the_plain_one(name: str) -> None:
    subject = Subject(name, network(name), SMALL)
    feeds = subject.request(30, seed=4)
    expected = in_onnxruntime(subject.plain)(feeds)
    graphs = [subject.passed.model] + ([subject.twin] if name == "reference" else [])
    for graph_model in graphs:
        found = in_onnxruntime(graph_model)(feeds)
        assert all(np.allclose(head, other, atol=1e-5) for head, other in zip(found, expected, strict=True))
    assert subject.proved() <= 1e-12


def test_int8_is_for_cpus_with_vnni_and_large_layers() -> None:
    subject = Subject("reference", lively(made("reference", ROUNDED, 0)), ROUNDED)
    rows = [subject.request(20, seed) for seed in range(3)]
    with_vnni, without = (
        forms_of(subject.passed.model, rows, instructions) for instructions in (("avx2", "avx512_vnni"), ("avx2",))
    )
    assert "VNNI" in without.not_possible["int8"]
    assert with_vnni.served.keys() - without.served.keys() == {"int8"}
    assert with_vnni.served["int8"](30)(rows[0])[0].shape == (20,)

    sizes = replace(SMALL, vector=4, fields=2, embedding=2)
    tiny = Subject("reference", lively(made("reference", sizes, 0)), sizes)
    small = forms_of(tiny.passed.model, [tiny.request(20)], ("avx2", "avx512_vnni"))
    assert "no layer of" in small.not_possible["int8"]


@pytest.mark.parametrize("count", [20, 30, 200])
def test_openvino_scores_as_onnxruntime(count: int) -> None:
    subject = Subject("reference", network("reference"), SMALL)
    feeds = subject.request(count)
    found = in_openvino(subject.passed.model, "fp32", count)(feeds)
    expected = in_onnxruntime(subject.passed.model)(feeds)

    assert [head.shape for head in found] == [head.shape for head in expected] == [(count,)]
    assert np.allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def rows() -> Clicks:
    return new_clicks(new_catalogue(SMALL, 0), SMALL, 150, 20, 3)


def _noisy(rows: Clicks, seed: int, much: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(rows.chances.shape)
    logits = np.log(rows.chances / (1 - rows.chances)) + much * noise
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


@pytest.mark.parametrize("name", ["reference", "lean"])
def test_empty_places_of_the_history_get_no_attention(name: str) -> None:
    feeds = random_feeds(SMALL, 9, 0)
    run = in_onnxruntime(plain_graph(network(name), SMALL))
    before = run(feeds)[0]
    history = feeds["history"].copy()
    history[feeds["history_mask"] == 0] = 100

    assert np.array_equal(run({**feeds, "history": history})[0], before)
    history[feeds["history_mask"] != 0] = 1
    assert not np.array_equal(run({**feeds, "history": history})[0], before)


def test_model_is_as_good_as_itself_but_not_as_one_that_knows_more(rows: Clicks) -> None:
    reference = [_noisy(rows, seed, 0.3) for seed in range(3)]
    same = compared(rows, reference, reference)
    worse = compared(rows, reference, [_noisy(rows, seed, 1.5) for seed in range(3)])

    assert same.as_good
    assert compared(rows, reference[:2], reference[:2]).as_good is None
    assert same.auc.ci95 == (0.0, 0.0)
    assert not worse.as_good
    assert worse.auc.difference == pytest.approx(np.mean(worse.auc.by_seed))
    assert worse.auc.difference == pytest.approx(worse.auc.lean - worse.auc.reference)
    assert worse.auc.difference < -AUC_MARGIN
    assert worse.logloss.difference > 0


def test_mean_difference_within_the_margin_is_not_enough(rows: Clicks) -> None:
    """If seeds differ by more than the margin, it is open which model is better."""
    found = compared(rows, [_noisy(rows, seed, 0.8) for seed in range(3)], [_noisy(rows, 9 + i, 0.8) for i in range(3)])

    assert found.auc.ci95 is not None
    assert found.auc.ci95[0] < -AUC_MARGIN
    assert not found.as_good
