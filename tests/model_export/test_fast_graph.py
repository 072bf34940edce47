"""The graph that is served is proved, and the faster one; what the manifest says of it is what was measured."""

from typing import Any

import numpy as np
import onnx
import pytest

from model_export.errors import ExportError
from model_export.factorise import linear
from model_export.factorise.rule import Rule
from model_export.factorise.values import Affine
from model_export.fast_graph import PROVED_AT, FastGraph, fastest_graph, pick
from model_export.parity import BundleRows
from model_export.precision.evidence import Evidence
from model_export.ranker import HEADS, ranker_graph
from model_export.run import median_microseconds, open_run
from msd.contract.bundle import RANKER
from tests.model_export.conftest import Exported


@pytest.fixture(scope="module")
def evidence(exported: Exported) -> Evidence:
    return Evidence(exported.inputs.dataset, exported.features, BundleRows(exported.bundle))


@pytest.fixture(scope="module")
def graph(exported: Exported) -> bytes:
    return ranker_graph(exported.inputs.trained)


@pytest.fixture(scope="module")
def fast(graph: bytes, exported: Exported, evidence: Evidence) -> FastGraph:
    return fastest_graph(graph, exported.bundle.schema, 200, evidence.request)


def test_both_graphs_score_alike(graph: bytes, fast: FastGraph, exported: Exported, evidence: Evidence) -> None:
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
def test_the_fastest_is_served(plain: float, passed: float, few: float, served: str) -> None:
    assert pick({"plain": plain, "passed": passed, "few": few}) == served


def test_the_graph_is_the_one_that_was_fastest_here(graph: bytes, fast: FastGraph) -> None:
    assert set(fast.microseconds) == {"plain", "passed", "few"}
    assert fast.served == pick(fast.microseconds)
    assert (fast.graph == graph) == (fast.served == "plain")
    assert (Rule.USER_MATRIX in fast.report.used) <= (fast.served != "few")


def test_the_manifest_says_what_was_measured(exported: Exported) -> None:
    said = exported.bundle.manifest.provenance["graph"]
    nodes = len(onnx.load(exported.bundle.path(RANKER)).graph.node)
    assert nodes == said["nodes"]["plain" if said["served"] == "plain" else "passed"]
    assert said["nodes"]["passed"] < said["nodes"]["plain"]
    assert said["candidates"] == 200
    assert set(said["microseconds"]) == {"plain", "passed", "few"}
    assert min(said["microseconds"].values()) > 0
    assert said["rules"]["linear"] > 0


def test_a_pass_that_computes_something_else_refuses_the_export(
    graph: bytes, exported: Exported, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = linear._sum

    def forgetful(*parts: Any) -> Affine:  # noqa: ANN401 - whatever the rule takes
        made = right(*parts)
        return Affine(made.shape, made.terms, None) if made.terms else made

    monkeypatch.setattr(linear, "_sum", forgetful)
    with pytest.raises(ExportError, match="differs by .* between the plain and the factorised graph"):
        fastest_graph(graph, exported.bundle.schema, 200, evidence.request)


def test_times_are_of_each(graph: bytes, evidence: Evidence) -> None:
    times = median_microseconds(
        {"one": open_run(graph, "fp32", HEADS), "two": open_run(graph, "fp32", HEADS)}, evidence.request(10)
    )
    assert set(times) == {"one", "two"}
    assert all(time > 0 for time in times.values())
