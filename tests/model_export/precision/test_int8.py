"""int8: every large layer, whatever its form; scales that no neighbour in the batch can move."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model_export.errors import ExportError
from model_export.precision.int8 import quantise

Floats = NDArray[np.float32]
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(0, 0.3, (48, 24)).astype(np.float32)
BIAS = RNG.normal(0, 1, 24).astype(np.float32)
Layer = tuple[list[onnx.NodeProto], dict[str, Floats]]


def _gemm(**attributes: Any) -> onnx.NodeProto:  # noqa: ANN401
    return helper.make_node("Gemm", ["x", "w", "b"], ["y"], **attributes)


LAYERS: dict[str, Layer] = {
    "MatMul": ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHTS}),
    "Gemm": ([_gemm()], {"w": WEIGHTS, "b": BIAS}),
    "Gemm of transposed weights": ([_gemm(transB=1)], {"w": np.ascontiguousarray(WEIGHTS.T), "b": BIAS}),
    "transposed before": (
        [helper.make_node("Transpose", ["v"], ["w"], perm=[1, 0]), helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"v": np.ascontiguousarray(WEIGHTS.T)},
    ),
    "a constant node": (
        [
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHTS)),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        {},
    ),
    "a bias for all outputs": ([_gemm()], {"w": WEIGHTS, "b": BIAS[:1]}),
    "a bias that comes with the request": (
        [helper.make_node("ReduceSum", ["x", "axis"], ["s"]), helper.make_node("Gemm", ["x", "w", "s"], ["y"])],
        {"w": WEIGHTS},
    ),
    "a bias that candidates share": (
        [
            helper.make_node("ReduceMean", ["x", "from"], ["m"]),
            helper.make_node("Slice", ["m", "from", "end", "axis"], ["s"]),
            helper.make_node("Gemm", ["x", "w", "s"], ["y"]),
        ],
        {"w": WEIGHTS},
    ),
    "read twice": (
        [
            helper.make_node("MatMul", ["x", "w"], ["one"]),
            helper.make_node("MatMul", ["x", "v"], ["two"]),
            helper.make_node("Add", ["one", "two"], ["y"]),
        ],
        {"w": WEIGHTS, "v": WEIGHTS[::-1].copy()},
    ),
}
LEFT: dict[str, Layer] = {
    "few inputs": (
        [helper.make_node("Slice", ["x", "from", "to", "axis"], ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])],
        {"w": WEIGHTS[:8]},
    ),
    "few outputs": ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHTS[:, :1].copy()}),
    "scaled": ([_gemm(alpha=0.5)], {"w": WEIGHTS, "b": BIAS}),
    "no constant": (
        [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]), helper.make_node("MatMul", ["x", "t"], ["y"])],
        {},
    ),
}


def _graph(layer: Layer) -> bytes:
    nodes, weights = layer
    places = {"from": [0], "to": [8], "end": [24], "axis": [1]}
    known = [numpy_helper.from_array(one, name) for name, one in weights.items()]
    known += [numpy_helper.from_array(np.array(one, np.int64), name) for name, one in places.items()]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "M"])],
        known,
    )
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return model


def _rows(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0.5, 1, (count, 48)).astype(np.float32)


def _run(graph: bytes, x: Floats) -> Floats:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Sums as they are where int8 is served: a CPU without VNNI cuts them else.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def _kinds(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize("name", LAYERS)
def test_quantises_layer_of_any_form(name: str) -> None:
    graph, x = _graph(LAYERS[name]), _rows(300)
    rounded = quantise(graph, [{"x": x}])
    onnx.checker.check_model(onnx.load_from_string(graph))

    kinds = _kinds(rounded)
    assert "MatMulIntegerToFloat" in kinds
    assert not {"MatMul", "Gemm", "Transpose", "Constant"} & set(kinds)
    assert kinds.count("QuantizeLinear") == 1
    before, after = _run(graph, x), _run(rounded, x)
    # Half a step of an input in 256, times 48 inputs that err either way.
    assert 0 < np.abs(after - before).max() < 0.03 * np.abs(before).max()
    assert len(rounded) < len(graph) + 600
    assert not [one for one in onnx.load_from_string(rounded).graph.initializer if one.name in ("w", "v")]


@pytest.mark.parametrize("name", LEFT)
def test_other_layers_stay_fp32(name: str) -> None:
    with pytest.raises(ExportError, match="int8: the graph has no layer of 32 inputs and 16 outputs or more"):
        quantise(_graph(LEFT[name]), [{"x": _rows(10)}])


@pytest.mark.parametrize(("name", "sums"), [("a bias that candidates share", 0), ("a bias for all outputs", 1)])
def test_shared_bias_is_part_of_the_product(name: str, sums: int) -> None:
    assert _kinds(quantise(_graph(LAYERS[name]), [{"x": _rows(10)}])).count("Add") == sums


def test_weights_have_scale_per_output() -> None:
    """One output a thousand times as large as the others must not drown them."""
    weights = WEIGHTS.copy()
    weights[:, 0] *= 1_000
    graph, x = _graph(([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights})), _rows(200)
    error = np.abs(_run(quantise(graph, [{"x": x}]), x) - _run(graph, x))

    assert error[:, 1:].max() < 0.2


def test_quantisation_is_deterministic() -> None:
    graph = _graph(LAYERS["Gemm"])

    assert quantise(graph, [{"x": _rows(9)}]) == quantise(graph, [{"x": _rows(5)}, {"x": _rows(9)}, {"x": _rows(9)}])


def test_rejects_row_that_is_not_finite() -> None:
    rows = _rows(4)
    rows[2, 7] = np.nan
    with pytest.raises(ExportError, match="int8: x is not a finite number for a row of the dataset"):
        quantise(_graph(LAYERS["Gemm"]), [{"x": rows}])


def _in_turn(graph: bytes, x: Floats, order: Sequence[int]) -> Floats:
    return _run(graph, x[list(order)])[np.argsort(order)]


@settings(max_examples=25)
@given(st.permutations(range(40)), st.floats(1, 1e4))
def test_int8_neighbours_change_nothing(order: list[int], outlier: float) -> None:
    """Not by a bit: sums of int8 are exact in any order, and scales are constants."""
    rounded = quantise(_graph(LAYERS["Gemm"]), [{"x": _rows(300)}])
    x = _rows(40, seed=1)
    found = _run(rounded, x)
    beside = x.copy()
    beside[20:] *= outlier

    np.testing.assert_array_equal(_in_turn(rounded, x, order), found)
    np.testing.assert_array_equal(_run(rounded, beside)[:20], found[:20])
    np.testing.assert_array_equal(_run(rounded, x[:1]), found[:1])
