"""The matrix products of a graph are found with their shapes, weights told from what is computed."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lab.race.products import Product, products_graph, products_of
from lab.race.runners import in_onnxruntime
from lab.reference.inputs import Feeds


def _graph() -> tuple[onnx.ModelProto, Feeds]:
    """x [N, 4] @ weights, turned; then a product with what was computed, of three axes; a sum between."""
    nodes = [
        helper.make_node("Gemm", ["x", "weights", "bias"], ["y"], transB=1),
        helper.make_node("Add", ["y", "y"], ["z"]),
        helper.make_node("MatMul", ["stack", "z"], ["out"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4]),
        helper.make_tensor_value_info("stack", TensorProto.FLOAT, [2, 5, "N"]),
    ]
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in _WEIGHTS.items()]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, 5, 3])]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model, {"x": np.ones((7, 4), np.float32), "stack": np.ones((2, 5, 7), np.float32)}


_WEIGHTS = {"weights": (3, 4), "bias": (3,)}


def test_products_are_found_with_their_shapes() -> None:
    assert products_of(*_graph()) == [Product((7, 4), (4, 3), True), Product((2, 5, 7), (7, 3), False)]


def test_products_graph_holds_nothing_else_and_needs_each() -> None:
    products = products_of(*_graph())
    graph, feeds = products_graph(products, seed=0)
    rows = in_onnxruntime(graph)(feeds)

    assert [node.op_type for node in graph.graph.node] == ["MatMul", "Gather"] * 2
    weights = next(numpy_helper.to_array(one) for one in graph.graph.initializer if one.name == "right_0")
    np.testing.assert_allclose(rows[0], feeds["left_0"][0] @ weights, atol=1e-5)
    np.testing.assert_allclose(rows[1], feeds["left_1"][0] @ feeds["right_1"], atol=1e-5)
