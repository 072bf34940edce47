"""The served graph is the fastest that is proved, and runs in each precision."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.errors import ExportError
from model_export.factorise import linear
from model_export.factorise.report import Rule
from model_export.factorise.values import Affine
from model_export.fast_graph import PROVED_AT, FastGraph, fastest_graph, pick
from model_export.graph import open_run
from model_export.precision.evidence import Evidence
from model_export.ranker import HEADS, ranker_graph
from msd.contract.bundle import RANKER
from msd.contract.precision import Precision
from tests.bundles.bf16 import has_bf16
from tests.model_export.conftest import Exported


@pytest.fixture(scope="module")
def graph(exported: Exported) -> bytes:
    return ranker_graph(exported.inputs.trained)


@pytest.fixture(scope="module")
def fast(graph: bytes, exported: Exported, evidence: Evidence) -> FastGraph:
    return fastest_graph(graph, exported.bundle.schema, 200, evidence.request)


def test_factorised_graph_scores_as_the_plain_one(
    graph: bytes, fast: FastGraph, exported: Exported, evidence: Evidence
) -> None:
    assert 0.0 <= fast.max_diff <= 1e-12
    served = exported.bundle.path(RANKER).read_bytes()
    for candidates in PROVED_AT:
        tensors = evidence.request(candidates)
        expected = open_run(graph, "fp32", HEADS)(tensors)
        assert expected.shape == (1, candidates)
        for one in (fast.graph, served):
            np.testing.assert_allclose(open_run(one, "fp32", HEADS)(tensors), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("plain", "passed", "few", "served"),
    [
        (100, 50, 60, "passed"),
        (100, 50, 40, "few"),
        (100, 50, 46, "passed"),
        (40, 50, 60, "plain"),
        (95, 99, 99, "plain"),
        (100, 92, 96, "plain"),
    ],
)
def test_picks_fastest_graph(plain: float, passed: float, few: float, served: str) -> None:
    assert pick({"plain": plain, "passed": passed, "few": few}) == served


def test_served_graph_was_fastest(graph: bytes, fast: FastGraph) -> None:
    assert set(fast.microseconds) == {"plain", "passed", "few"}
    assert fast.served == pick(fast.microseconds)
    assert (fast.graph == graph) == (fast.served == "plain")
    assert (Rule.USER_MATRIX in fast.report.used) <= (fast.served != "few")


def test_manifest_has_measurements(exported: Exported) -> None:
    said = exported.bundle.manifest.provenance["graph"]
    nodes = len(onnx.load(exported.bundle.path(RANKER)).graph.node)
    assert nodes == said["nodes"]["plain" if said["served"] == "plain" else "passed"]
    assert said["nodes"]["passed"] < said["nodes"]["plain"]
    assert said["candidates"] == 200
    assert set(said["microseconds"]) == {"plain", "passed", "few"}
    assert min(said["microseconds"].values()) > 0
    assert said["rules"]["linear"] > 0


def test_wrong_pass_stops_export(
    graph: bytes, exported: Exported, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = linear._sum

    def forgetful(*parts: Any) -> Affine:  # noqa: ANN401 - whatever the rule takes
        made = right(*parts)
        return Affine(made.shape, made.terms, None) if made.terms else made

    monkeypatch.setattr(linear, "_sum", forgetful)
    with pytest.raises(ExportError, match="differs by .* between the plain and the factorised graph"):
        fastest_graph(graph, exported.bundle.schema, 200, evidence.request)


def _graph() -> bytes:
    """pctr = sigmoid(item @ ones), and an input that nothing comes of."""
    ones = numpy_helper.from_array(np.ones((4, 1), np.float32), "ones")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("MatMul", ["item_semantic", "ones"], ["product"]),
        helper.make_node("Squeeze", ["product", "axes"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["pctr"]),
    ]
    inputs = [
        helper.make_tensor_value_info("item_semantic", TensorProto.FLOAT, ["n", 4]),
        helper.make_tensor_value_info("item_dense", TensorProto.FLOAT, ["n", 1]),
    ]
    output = helper.make_tensor_value_info("pctr", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "ranker", inputs, [output], [ones, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if has_bf16() else ["fp32"])
def test_graph_ignores_unused_input(precision: Precision) -> None:
    tensors = {"item_semantic": np.full((3, 4), 0.25, np.float32), "item_dense": np.ones((3, 1), np.float32)}

    found = open_run(_graph(), precision, ["pctr"])(tensors)

    np.testing.assert_allclose(found, np.full((1, 3), 1 / (1 + np.exp(-1))), atol=0.01)
