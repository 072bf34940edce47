"""A graph's matrix products alone: the minimum work of any runtime. Knows no networks."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lab.race.runners import in_onnxruntime
from lab.reference.inputs import Feeds

_PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Product:
    """left [..., m, k] @ right [..., k, n]. `constant`: right is a weight, which a runtime may pack once."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    constant: bool


def products_of(model: onnx.ModelProto, feeds: Feeds) -> list[Product]:
    """Return the graph's products for a request, found by running it."""
    nodes = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    constants = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
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
    """Return an fp32 graph of these products, each with its own random input, and the graph's inputs.

    Its outputs are the first row of each result: so no runtime can omit one or spends time on returning large results.
    """
    rng = np.random.default_rng(seed)
    nodes, inputs, outputs, feeds = [], [], [], Feeds()
    weights = [numpy_helper.from_array(np.array(0, np.int64), "place")]
    for number, product in enumerate(products):
        left, right, result, first = (f"{name}_{number}" for name in ("left", "right", "result", "first"))
        for name, shape in ((left, product.left), (right, product.right)):
            values = rng.standard_normal(shape, np.float32)
            if name == right and product.constant:
                weights.append(numpy_helper.from_array(values, name))
            else:
                feeds[name] = values
                inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("MatMul", [left, right], [result]))
        nodes.append(helper.make_node("Gather", [result, "place"], [first], axis=0))
        shape = (*product.left[:-1], product.right[-1])[1:]
        outputs.append(helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), feeds


def _shapes(model: onnx.ModelProto, names: list[str], feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a graph's tensors for a request, except those of its inputs."""
    asked = [name for name in names if name not in feeds]
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    del shown.graph.output[:]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in asked)
    return {name: value.shape for name, value in zip(asked, in_onnxruntime(shown)(feeds), strict=True)}


def _turned(shape: tuple[int, ...], node: onnx.NodeProto, attribute: str) -> tuple[int, ...]:
    turned = any(given.name == attribute and given.i for given in node.attribute)
    return (*shape[:-2], shape[-1], shape[-2]) if turned else tuple(shape)
