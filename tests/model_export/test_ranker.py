"""ranker.onnx scores as torch does, with the user once and any number of candidates."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model_export.errors import ExportError
from model_export.export import TOLERANCE
from model_export.parity import BundleRows, Expected, check_parity, serving_requests
from model_export.ranker import HEADS, ranker_graph, torch_scores
from msd.contract.assemble import Tensors
from msd.contract.bundle import RANKER
from msd.contract.golden import golden_tensors
from msd.dataset.split import Part
from msd.ranker.batch import TrainedRanker
from msd.ranker.calibrate import Curve
from tests.model_export.conftest import Exported, quiet

BOTH = pytest.mark.parametrize("name", ["exported", "plain"])


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def _pctr(path: Path, tensors: Tensors) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    (scores,) = _session(path).run(list(HEADS), tensors)
    return np.asarray(scores)


def _example(exported: Exported, place: int = 1) -> Tensors:
    """The tensors of one of the requests that the graph was proved on."""
    request = list(serving_requests(exported.inputs.dataset, exported.features, 60))[place]
    rows = BundleRows(exported.bundle)
    codecs = rows.codecs
    return golden_tensors(exported.bundle.schema, codecs["user"], codecs["item"], rows.golden(request)).tensors


def _chosen(tensors: Tensors, places: list[int]) -> Tensors:
    return {name: tensor[places] if name.startswith("item_") else tensor for name, tensor in tensors.items()}


@BOTH
def test_ranker_equals_torch_on_test_rows(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    asked = list(serving_requests(exported.inputs.dataset, exported.features, 2_400))
    assert len(asked) == len(exported.features.of_part(Part.TEST)) > 100
    parity = check_parity(exported.bundle, _by_torch(exported.inputs.trained), asked, TOLERANCE, quiet)
    assert parity.max_abs_diff <= 1e-5
    scores = np.concatenate([golden.expected["pctr"] for golden in parity.goldens])
    assert scores.std() > 0.02
    assert parity.max_abs_diff == exported.bundle.manifest.provenance["parity"]["max_abs_diff"]


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


@pytest.mark.parametrize("count", [1, 2, 400])
def test_number_of_candidates_does_not_change_scores(exported: Exported, count: int) -> None:
    tensors = _example(exported)
    places = np.random.default_rng(count).integers(0, len(tensors["item_dense"]), count).tolist()
    path = exported.bundle.path(RANKER)
    one_by_one = _pctr(path, tensors)
    found = _pctr(path, _chosen(tensors, places))
    np.testing.assert_allclose(found, one_by_one[places], atol=1e-6)
    np.testing.assert_allclose(found, torch_scores(exported.inputs.trained, _chosen(tensors, places))[0], atol=1e-5)


def test_padding_does_not_change_scores(exported: Exported) -> None:
    tensors = _example(exported)
    held = int(tensors["history_mask"].sum())
    assert 0 < held < tensors["history_mask"].shape[1]
    spoiled = {name: tensor.copy() for name, tensor in tensors.items()}
    spoiled["history_categorical"][:, held:] = 3
    spoiled["history_semantic"][:, held:] = 9.0
    path = exported.bundle.path(RANKER)
    np.testing.assert_allclose(_pctr(path, spoiled), _pctr(path, tensors), atol=1e-7)


def test_calibration_is_part_of_the_graph(exported: Exported, tmp_path: Path) -> None:
    trained, tensors = copy.deepcopy(exported.inputs.trained), _example(exported)
    with torch.no_grad():
        logits = trained.ranker({name: torch.from_numpy(np.array(one)) for name, one in tensors.items()}).numpy()
    middle = float(np.median(logits))
    bent = Curve(np.array([middle - 0.1, middle, middle + 0.05]), np.array([-2.0, 0.5, 0.75]), 0.5)
    for curve in (Curve(np.zeros(1), np.zeros(1)), Curve(np.zeros(1), np.array([-1.5]), 0.25), bent):
        trained.calibrator.set(curve)
        (tmp_path / RANKER).write_bytes(ranker_graph(trained))
        np.testing.assert_allclose(_pctr(tmp_path / RANKER, tensors), 1 / (1 + np.exp(-curve(logits))), atol=1e-5)
    said = exported.bundle.manifest.calibration
    assert Curve(**said).knots == exported.inputs.trained.calibrator.curve().knots.tolist()


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (1e-3, r"onnxruntime scores 0\.\d+ where torch scores 0\.\d+ \(pctr of candidate \d of"),
        (float("nan"), "where torch scores nan"),
    ],
)
def test_parity_rejects_other_weights(exported: Exported, by: float, message: str) -> None:
    requests = list(serving_requests(exported.inputs.dataset, exported.features, 20))
    trained = copy.deepcopy(exported.inputs.trained)
    with torch.no_grad():
        trained.ranker.head.bias.add_(by)
    with pytest.raises(ExportError, match=message):
        check_parity(exported.bundle, _by_torch(trained), requests, TOLERANCE, quiet)


def _by_torch(trained: TrainedRanker) -> Expected:
    return Expected(lambda tensors: torch_scores(trained, tensors), "torch")
