"""The matrix products of a graph are found with their shapes, weights told from what is computed."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lab.race.products import Product, products_graph, products_of
from lab.race.runners import in_onnxruntime


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
