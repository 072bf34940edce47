"""The matrix products of a graph and nothing else: what any runtime has to spend on it. Knows no networks."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.numpy_helper import to_array

from loadtest.graph.inputs import Feeds
from loadtest.graph.runners import in_onnxruntime

_PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Product:
    """left [..., m, k] @ right [..., k, n]; `constant` says that right is a weight, which a runtime may pack once."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    constant: bool


def products_of(model: onnx.ModelProto, feeds: Feeds) -> list[Product]:
    """The graph's products for a request, by running it and looking."""
    nodes = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    constants = {one.name: to_array(one).shape for one in model.graph.initializer}
    wanted = sorted({name for node in nodes for name in node.input[:2] if name not in constants})
    shapes = {**constants, **{name: value.shape for name, value in feeds.items()}, **_shapes(model, wanted, feeds)}
    return [
        Product(
            _turned(shapes[node.input[0]], node, "transA"),
            _turned(shapes[node.input[1]], node, "transB"),
            node.input[1] in constants,
        )
        for node in nodes
    ]


def products_graph(products: list[Product], seed: int) -> tuple[onnx.ModelProto, Feeds]:
    """A graph of these products in fp32, each of its own random input, and its inputs. It gives the first row of each
    result, so that no runtime can leave one out, nor spend time on handing large results over.
    """
    rng = np.random.default_rng(seed)
    nodes, inputs, outputs, weights, feeds = [], [], [], [numpy_helper.from_array(np.array(0), "first")], Feeds()
    for number, product in enumerate(products):
        left, right, result, row = (f"{name}_{number}" for name in ("left", "right", "result", "row"))
        for name, shape in ((left, product.left), (right, product.right)):
            values = rng.standard_normal(shape, np.float32)
            if name == right and product.constant:
                weights.append(numpy_helper.from_array(values, name))
            else:
                feeds[name] = values
                inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("MatMul", [left, right], [result]))
        nodes.append(helper.make_node("Gather", [result, "first"], [row], axis=0))
        outputs.append(helper.make_tensor_value_info(row, onnx.TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), feeds


def _shapes(model: onnx.ModelProto, names: list[str], feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """The shapes that some tensors of a graph have for a request; those that are inputs are not asked for."""
    asked = [name for name in names if name not in feeds]
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in asked)
    return {name: value.shape for name, value in zip(asked, in_onnxruntime(shown)(feeds), strict=True)}


def _turned(shape: tuple[int, ...], node: onnx.NodeProto, attribute: str) -> tuple[int, ...]:
    turned = any(one.name == attribute and one.i for one in node.attribute)
    return (*shape[:-2], shape[-1], shape[-2]) if turned else tuple(shape)
