"""Whole networks: our own, its baselines, and the load test's five, which tutorials write likewise."""

import warnings
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from lab.reference.graphs import examples, plain_graph
from lab.reference.inputs import SIDES, random_feeds
from lab.reference.network import NETWORKS
from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove
from model_export.factorise.report import Rule
from msd.contract.schema import Side
from tests.lab.reference.small import SMALL, network
from tests.model_export.factorise.graphs import COUNTS, RANKERS, Feeds, feeds_of, ranker

USED = {
    "reference": {Rule.USER_MATRIX, Rule.LINEAR, Rule.WEIGHTED_SUM, Rule.GATHER, Rule.BIAS},
    "deepfm": {Rule.CONCAT, Rule.LINEAR, Rule.GATHER, Rule.BIAS},
    "dcn_low_rank": {Rule.LOW_RANK, Rule.LINEAR, Rule.GATHER, Rule.BIAS},
    "transformer": {Rule.SOFTMAX, Rule.HEADS, Rule.LINEAR, Rule.GATHER, Rule.BIAS},
    "two_tasks": {Rule.LINEAR, Rule.GATHER, Rule.BIAS},
    "our msd": {Rule.USER_MATRIX, Rule.WEIGHTED_SUM, Rule.AFFINE, Rule.BIAS},
    "our din": {Rule.USER_MATRIX, Rule.WEIGHTED_SUM, Rule.BIAS},
}


@cache
def _made(name: str) -> tuple[onnx.ModelProto, dict[str, Side], list[Feeds]]:
    if name.startswith("our "):
        model, sides = ranker(name.removeprefix("our "))
        return model, sides, [feeds_of(model, count, seed=count) for count in COUNTS]
    plain = network(name)
    sides = {name: SIDES[name] for name in plain.inputs}
    return plain_graph(plain, SMALL), sides, [random_feeds(SMALL, count, count) for count in COUNTS]


def _scores(model: onnx.ModelProto, feeds: Feeds) -> "list[np.ndarray[tuple[int], np.dtype[np.float32]]]":
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, {name: feeds[name] for name in names}))


@pytest.mark.parametrize("name", [*NETWORKS, *(f"our {name}" for name in RANKERS)])
def test_network_is_factorised_exactly(name: str) -> None:
    model, sides, feeds = _made(name)
    assert prove(model, sides, feeds) <= 1e-12
    passed = factorise(model, sides)
    onnx.checker.check_model(passed.model, full_check=True)
    for feed in feeds:
        for before, after in zip(_scores(model, feed), _scores(passed.model, feed), strict=True):
            np.testing.assert_allclose(after, before, atol=5e-6)
            assert len(before) < 3 or before.std() > 1e-4
    report = passed.report
    assert report.used.keys() >= USED.get(name, set())
    left = {entry.operator for entry in report.entries if entry.left}
    assert left == ({"TopK"} if name == "our msd" else set())
    assert report.nodes_after < report.nodes_before


@pytest.mark.parametrize("name", ["our msd", "reference", "transformer"])
def test_pass_is_deterministic_and_repeatable(name: str) -> None:
    model, sides, feeds = _made(name)
    before = model.SerializeToString()
    first, second = (factorise(model, sides).model.SerializeToString() for _ in range(2))
    assert first == second
    assert model.SerializeToString() == before
    assert prove(onnx.load_from_string(first), sides, feeds) <= 1e-12


@pytest.mark.parametrize("name", ["reference", "transformer"])
def test_graph_of_the_newer_exporter_is_split(name: str) -> None:
    plain = network(name)
    inputs = examples(plain, SMALL)
    many = torch.export.Dim("candidates", min=1, max=100_000)
    dims = tuple({0: many} if SIDES[one] == "item" else None for one in plain.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            plain, inputs, dynamo=True, dynamic_shapes=dims, input_names=plain.inputs, verbose=False
        )
    assert program is not None
    model = program.model_proto
    sides = {one: SIDES[one] for one in plain.inputs}
    feeds = [random_feeds(SMALL, count, count) for count in COUNTS]
    assert prove(model, sides, feeds) <= 1e-12
    report = factorise(model, sides).report
    assert report.used.keys() >= USED[name]
    assert not any(entry.left for entry in report.entries)
