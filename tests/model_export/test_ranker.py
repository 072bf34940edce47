"""ranker.onnx scores as torch does, with the user once and any number of candidates. The served graph is the fastest
that is proved, and runs in each precision.
"""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import native
from model_export.errors import ExportError
from model_export.export import TOLERANCE
from model_export.fast_graph import PROVED_AT, FastGraph, fastest_graph, pick
from model_export.parity import Expected, check_parity, serving_requests
from model_export.precision.evidence import Evidence
from model_export.ranker import HEADS, ranker_graph, torch_scores
from model_export.run import open_run
from msd.contract.bundle import GOLDENS, RANKER
from msd.contract.golden import read_goldens
from msd.contract.openvino import OpenVinoGraph
from msd.contract.precision import Precision
from msd.contract.tensors import Tensors
from msd.dataset.split import Part
from msd.ranker.batch import TrainedRanker
from msd.ranker.calibrate import Curve
from native.bundle_rows import BundleRows
from tests.bundles.factory import has_bf16
from tests.model_export.conftest import Exported, quiet
from tests.onnx_factorise.graphs import graph_of

BOTH = pytest.mark.parametrize("name", ["exported", "plain"])


def _pctr(path: Path, tensors: Tensors) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(list(HEADS), tensors)
    return np.asarray(scores)


def _example(exported: Exported, place: int = 1) -> Tensors:
    """The tensors of one of the requests that the graph was proved on."""
    request = list(serving_requests(exported.inputs.dataset, exported.features, 60))[place]
    rows = BundleRows.of(exported.bundle)
    return rows.tensors(rows.golden(request))


@BOTH
def test_ranker_equals_torch_on_test_rows(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    asked = list(serving_requests(exported.inputs.dataset, exported.features, 2_400))
    assert len(asked) == len(exported.features.of_part(Part.TEST)) > 100
    parity = check_parity(exported.bundle, _by_torch(exported.trained), asked, TOLERANCE, quiet)
    assert parity.max_abs_diff <= 1e-5
    scores = np.concatenate([golden.expected["pctr"] for golden in parity.goldens])
    assert scores.std() > 0.02
    assert parity.max_abs_diff == exported.bundle.manifest.provenance["parity"]["max_abs_diff"]


def test_parity_is_of_the_core(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list(serving_requests(exported.inputs.dataset, exported.features, 2))
    monkeypatch.delattr(native.core, "Frame")
    with pytest.raises(AttributeError, match="Frame"):
        check_parity(exported.bundle, _by_torch(exported.trained), asked, TOLERANCE, quiet)


def test_goldens_have_every_variation_bids_and_live_events(exported: Exported) -> None:
    asked = list(serving_requests(exported.inputs.dataset, exported.features, 2_400))
    goldens = list(read_goldens(exported.bundle.path(GOLDENS)))
    varied = [{**request, "candidates": request["candidates"]["id"]} for request in asked[:54:6]]
    found = [{**golden.request, "candidates": golden.request["candidates"]["id"]} for golden in goldens]

    assert len(goldens) <= 32
    assert all(request in found for request in varied)
    assert all(any(bid for bid in golden.request["candidates"]["bid"]) for golden in goldens)
    assert {one for golden in goldens for one in golden.request["candidates"].get("pricing", ())} == {"cpm", "cpc"}
    assert sum(bool(golden.events) for golden in goldens) >= 4


@BOTH
def test_inputs_have_one_user_and_many_candidates(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    graph = onnx.load(str(exported.bundle.path(RANKER))).graph
    found = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    expected = {
        spec.name: ["candidates" if spec.side == "item" else 1, *spec.shape] for spec in exported.bundle.schema.tensors
    }
    assert found == {**expected, "pctr": ["candidates"]}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    names = {"int32": onnx.TensorProto.INT32, "float32": onnx.TensorProto.FLOAT}
    assert kinds == {spec.name: names[spec.dtype] for spec in exported.bundle.schema.tensors}


def test_calibration_is_part_of_the_graph(exported: Exported, tmp_path: Path) -> None:
    trained, tensors = copy.deepcopy(exported.trained), _example(exported)
    with torch.no_grad():
        logits = trained.ranker({name: torch.from_numpy(np.array(one)) for name, one in tensors.items()}).numpy()
    middle = float(np.median(logits))
    bent = Curve(np.array([middle - 0.1, middle, middle + 0.05]), np.array([-2.0, 0.5, 0.75]), 0.5)
    for curve in (Curve(np.zeros(1), np.zeros(1)), Curve(np.zeros(1), np.array([-1.5]), 0.25), bent):
        trained.calibrator.set(curve)
        (tmp_path / RANKER).write_bytes(ranker_graph(trained))
        np.testing.assert_allclose(_pctr(tmp_path / RANKER, tensors), 1 / (1 + np.exp(-curve(logits))), atol=1e-5)
    record = exported.bundle.manifest.calibration
    assert Curve(**record).knots == exported.trained.calibrator.curve().knots.tolist()


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (1e-3, r"onnxruntime scores 0\.\d+ where torch scores 0\.\d+ \(pctr of candidate \d of"),
        (float("nan"), "where torch scores nan"),
    ],
)
def test_parity_rejects_other_weights(exported: Exported, by: float, message: str) -> None:
    requests = list(serving_requests(exported.inputs.dataset, exported.features, 20))
    trained = copy.deepcopy(exported.trained)
    with torch.no_grad():
        trained.ranker.head.bias.add_(by)
    with pytest.raises(ExportError, match=message):
        check_parity(exported.bundle, _by_torch(trained), requests, TOLERANCE, quiet)


def _by_torch(trained: TrainedRanker) -> Expected:
    return Expected(torch_scores(trained), "torch")


@pytest.fixture(scope="module")
def traced(exported: Exported) -> bytes:
    return ranker_graph(exported.trained)


@pytest.fixture(scope="module")
def fast(traced: bytes, exported: Exported, evidence: Evidence) -> FastGraph:
    return fastest_graph(traced, 200, evidence.request)


def test_factorised_graph_scores_as_the_plain_one(
    traced: bytes, fast: FastGraph, exported: Exported, evidence: Evidence
) -> None:
    assert 0.0 <= fast.max_diff <= 1e-12
    served = exported.bundle.path(RANKER).read_bytes()
    for candidates in PROVED_AT:
        tensors = evidence.request(candidates)
        expected = open_run(traced, "fp32", HEADS)(tensors)
        assert expected.shape == (1, candidates)
        for one in (fast.graph, served):
            np.testing.assert_allclose(open_run(one, "fp32", HEADS)(tensors), expected, atol=2e-6)


def test_openvino_reads_the_graph(traced: bytes, evidence: Evidence) -> None:
    """Its inverse of a matrix is no operator of ONNX."""
    tensors = evidence.request(20)
    found = OpenVinoGraph(traced, "fp32", 1, HEADS).run(tensors)["pctr"]
    np.testing.assert_allclose(found, open_run(traced, "fp32", HEADS)(tensors)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("plain", "passed", "served"), [(100, 50, "passed"), (40, 50, "plain"), (95, 99, "plain"), (100, 92, "plain")]
)
def test_picks_fastest_graph(plain: float, passed: float, served: str) -> None:
    assert pick({"plain": plain, "passed": passed}) == served


def test_manifest_has_measurements(exported: Exported) -> None:
    record = exported.bundle.manifest.provenance["graph"]
    nodes = len(onnx.load(exported.bundle.path(RANKER)).graph.node)
    assert nodes == record["nodes"]["plain" if record["served"] == "plain" else "passed"]
    assert record["candidates"] == 200
    assert set(record["microseconds"]) == {"plain", "passed"}
    assert min(record["microseconds"].values()) > 0
    assert record["rules"]["linear"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if has_bf16() else ["fp32"])
def test_graph_ignores_unused_input(precision: Precision) -> None:
    tensors = {"item_semantic": np.full((3, 4), 0.25, np.float32), "item_dense": np.ones((3, 1), np.float32)}

    graph = graph_of(
        """g (float[n,4] item_semantic, float[n,1] item_dense) => (float[n] pctr) {
            product = MatMul (item_semantic, ones) logit = Squeeze (product, axes) pctr = Sigmoid (logit) }""",
        ones=np.ones((4, 1)),
        axes=[1],
    )
    found = open_run(graph.SerializeToString(), precision, ["pctr"])(tensors)

    np.testing.assert_allclose(found, np.full((1, 3), 1 / (1 + np.exp(-1))), atol=0.01)


def test_graph_that_cannot_run_is_refused() -> None:
    graph = graph_of(
        "g (float[candidates,4] item) => (float[candidates,4] pctr) { x = Add (item, w) pctr = Magic (x) }", w=1
    )
    with pytest.raises(ExportError, match="the plain graph cannot be loaded: .*Magic|the graph cannot be loaded"):
        fastest_graph(graph.SerializeToString(), 3, lambda count: {"item": np.ones((count, 4), np.float32)})
