"""A graph runs in each precision whatever of the schema's tensors it makes use of."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.run import open_run
from msd.contract.precision import Precision
from tests.bundles.bf16 import has_bf16


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
def test_an_input_that_the_graph_ignores_may_be_given(precision: Precision) -> None:
    tensors = {"item_semantic": np.full((3, 4), 0.25, np.float32), "item_dense": np.ones((3, 1), np.float32)}

    found = open_run(_graph(), precision, ["pctr"])(tensors)

    np.testing.assert_allclose(found, np.full((1, 3), 1 / (1 + np.exp(-1))), atol=0.01)
