"""`msd lab graph` on small models: every figure is there; graphs in every form score alike."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lab.race import graph, leaner
from lab.race.graph import GraphPlan
from lab.race.leaner import AUC_MARGIN, Study, compared, study_leaner
from lab.race.products import Product, products_graph, products_of
from lab.race.race import race
from lab.race.report import summarised
from lab.race.runners import forms_of, in_onnxruntime, in_openvino
from lab.race.subject import Subject
from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.graphs import plain_graph
from lab.reference.inputs import random_feeds
from lab.reference.network import NETWORKS, lively, made
from lab.reference.training import weights_of
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


def test_ratios_are_of_the_named_times() -> None:
    reference = {"tiled": 60.0, "plain": 50.0, "passed": 10.0, "int8": 4.0}
    found = summarised(
        {
            "reference": {name: {200: each, 1_000: 5 * each} for name, each in reference.items()},
            "other": {"plain": {200: 3.0}, "passed": {200: 2.0}},
        }
    )

    assert found["tiled_ratios"]["reference"]["passed"] == {"200": 6.0, "1000": 6.0}
    assert found["tiled_ratios"]["reference"]["int8"] == {"200": 15.0, "1000": 15.0}
    assert found["pass_ratios"] == {"reference": {"200": 5.0, "1000": 5.0}, "other": {"200": 1.5}}
    assert found["fastest"] == "int8"
    assert found["microseconds"]["reference"]["int8"]["1000"] == 20.0


def test_contestants_run_in_turns_after_a_warm_up() -> None:
    ran: list[str] = []
    medians = race({"one": lambda: ran.append("one"), "two": lambda: ran.append("two")}, seconds=0)

    assert ran == ["one"] * 3 + ["two"] * 3 + ["one", "two"] * 5
    assert medians.keys() == {"one", "two"}
    assert all(median >= 0 for median in medians.values())


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


def test_products_are_found_with_their_shapes_and_made_into_a_graph() -> None:
    """x [N, 4] @ weights, turned; then a product with what was computed, of three axes; a sum between."""
    nodes = [
        helper.make_node("Gemm", ["x", "weights", "bias"], ["y"], transB=1),
        helper.make_node("Add", ["y", "y"], ["z"]),
        helper.make_node("MatMul", ["stack", "z"], ["out"]),
    ]
    values: dict[str, list[str | int]] = {"x": ["N", 4], "stack": [2, 5, "N"], "out": [2, 5, 3]}
    x, stack, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items())
    shapes = {"weights": (3, 4), "bias": (3,)}
    initial = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    made = helper.make_graph(nodes, "products", [x, stack], [out], initial)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    products = products_of(model, {"x": np.ones((7, 4), np.float32), "stack": np.ones((2, 5, 7), np.float32)})
    assert products == [Product((7, 4), (4, 3), True), Product((2, 5, 7), (7, 3), False)]
    graph, feeds = products_graph(products, seed=0)
    rows = in_onnxruntime(graph)(feeds)

    assert [node.op_type for node in graph.graph.node] == ["MatMul", "Gather"] * 2
    weights = next(numpy_helper.to_array(tensor) for tensor in graph.graph.initializer if tensor.name == "right_0")
    np.testing.assert_allclose(rows[0], feeds["left_0"][0] @ weights, atol=1e-5)
    np.testing.assert_allclose(rows[1], feeds["left_1"][0] @ feeds["right_1"], atol=1e-5)


@pytest.fixture(scope="module")
def rows() -> Clicks:
    return new_clicks(new_catalogue(SMALL, 0), SMALL, 150, 20, 3)


def _noisy(rows: Clicks, seed: int, much: float) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(rows.chances.shape)
    logits = np.log(rows.chances / (1 - rows.chances)) + much * noise
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def test_lean_model_differs_in_three_smaller_parts() -> None:
    before, after = made("reference", SMALL, 0), made("lean", SMALL, 0)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (before, after)]

    assert {name.split(".")[0] for name, _ in shapes[0].items() ^ shapes[1].items()} == {"cross", "attention", "mlp"}
    assert sum(map(np.prod, shapes[1].values())) < sum(map(np.prod, shapes[0].values()))


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


def test_each_seed_is_trained_once(tmp_path: Path) -> None:
    study = Study(2, requests=40, candidates=10)
    found = study_leaner(tmp_path, SMALL, BRIEF, study, lambda *_: None)

    assert all(weights_of(tmp_path, name, seed).exists() for name in ("reference", "lean") for seed in (0, 1))
    again = study_leaner(tmp_path, SMALL, BRIEF, study, lambda *_: pytest.fail("trained again"))
    assert again == found
