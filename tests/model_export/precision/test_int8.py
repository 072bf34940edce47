"""int8: every large layer, whatever its form; scales that no neighbour in the batch can move."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model_export.errors import ExportError
from model_export.precision.int8 import quantise
from tests.onnx_factorise.graphs import graph_of

Floats = NDArray[np.float32]
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(0, 0.3, (48, 24)).astype(np.float32)
BIAS = RNG.normal(0, 1, 24).astype(np.float32)


def _layer(nodes: str, **weights: Floats) -> onnx.ModelProto:
    places = {"axis": [1], "first": [0], "eight": [8], "last": [24]}
    return graph_of(f"layer (float[N,48] x) => (float[N,M] y) {{ {nodes} }}", **weights, **places)


def _constant() -> onnx.ModelProto:
    """Return the layer of a matrix that is a node's, not an initializer."""
    model = _layer("y = MatMul (x, w)")
    node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHTS))
    model.graph.node.insert(0, node)
    return model


LAYERS = {
    "MatMul": _layer("y = MatMul (x, w)", w=WEIGHTS),
    "Gemm": _layer("y = Gemm (x, w, b)", w=WEIGHTS, b=BIAS),
    "Gemm of transposed weights": _layer("y = Gemm <transB = 1> (x, w, b)", w=WEIGHTS.T, b=BIAS),
    "transposed before": _layer("w = Transpose <perm = [1, 0]> (v) y = MatMul (x, w)", v=WEIGHTS.T),
    "a constant node": _constant(),
    "a bias for all outputs": _layer("y = Gemm (x, w, b)", w=WEIGHTS, b=BIAS[:1]),
    "a bias that comes with the request": _layer("s = ReduceSum (x, axis) y = Gemm (x, w, s)", w=WEIGHTS),
    "a bias that candidates share": _layer(
        "m = ReduceMean (x, first) s = Slice (m, first, last, axis) y = Gemm (x, w, s)", w=WEIGHTS
    ),
    "read twice": _layer("one = MatMul (x, w) two = MatMul (x, v) y = Add (one, two)", w=WEIGHTS, v=WEIGHTS[::-1]),
}
LEFT = {
    "few inputs": _layer("s = Slice (x, first, eight, axis) y = MatMul (s, w)", w=WEIGHTS[:8]),
    "few outputs": _layer("y = MatMul (x, w)", w=WEIGHTS[:, :1]),
    "scaled": _layer("y = Gemm <alpha = 0.5> (x, w, b)", w=WEIGHTS, b=BIAS),
    "no constant": _layer("t = Transpose <perm = [1, 0]> (x) y = MatMul (x, t)"),
}


def _graph(layer: onnx.ModelProto) -> bytes:
    content: bytes = layer.SerializeToString()
    return content


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
    graph, x = _graph(_layer("y = MatMul (x, w)", w=weights)), _rows(200)
    error = np.abs(_run(quantise(graph, [{"x": x}]), x) - _run(graph, x))

    assert error[:, 1:].max() < 0.2


def test_rejects_row_that_is_not_finite() -> None:
    rows = _rows(4)
    rows[2, 7] = np.nan
    with pytest.raises(ExportError, match="int8: x is not a finite number for a row of the dataset"):
        quantise(_graph(LAYERS["Gemm"]), [{"x": rows}])


@settings(max_examples=25)
@given(st.permutations(range(40)), st.floats(1, 1e4))
def test_int8_neighbours_change_nothing(order: list[int], outlier: float) -> None:
    """Not by a bit: sums of int8 are exact in any order, and scales are constants."""
    rounded = quantise(_graph(LAYERS["Gemm"]), [{"x": _rows(300)}])
    x = _rows(40, seed=1)
    found = _run(rounded, x)
    beside = x.copy()
    beside[20:] *= outlier

    np.testing.assert_array_equal(_run(rounded, x[order])[np.argsort(order)], found)
    np.testing.assert_array_equal(_run(rounded, beside)[:20], found[:20])
    np.testing.assert_array_equal(_run(rounded, x[:1]), found[:1])
