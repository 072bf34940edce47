"""Quantisation of a graph's layers to int8.

Weights have a scale per output channel. Activations have constant scales from real rows, so that no score depends on
its batch. Small layers, including the last, stay as they are. Does not know how good the scores are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model_export.errors import ExportError
from model_export.run import open_session
from msd.contract.instructions import adds_int8_exactly
from msd.contract.tensors import Tensors

# Rounding a layer's inputs costs time per input, and saves time per input × output.
_LEAST_INPUTS, _LEAST_OUTPUTS = 32, 16
_DOMAIN = "com.microsoft"
Floats = NDArray[np.float32]


class _Layer(NamedTuple):
    """A product with constant weights [K, M]. `added`: name of the tensor added to it, empty if none. `shared`: that
    tensor is [M] or [1, M], the same for all rows."""

    activation: str
    output: str
    weights: Floats
    added: str
    shared: bool


class _Range(NamedTuple):
    """Range of an activation over all rows, and its rounding to 256 steps that include 0."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """Size of a step."""
        return np.float32(max(self.high - self.low, 1e-6) / 255)

    @property
    def zero(self) -> np.uint8:
        """Step that is 0."""
        return np.uint8(round(-self.low / self.scale))


def check_int8(instructions: tuple[str, ...]) -> None:
    """Raise ExportError if the CPU does not sum products of int8 exactly."""
    if not adds_int8_exactly(instructions):
        raise ExportError(f"int8: this CPU ({' '.join(instructions)}) has no VNNI, without which sums are cut")


def quantise(graph: bytes, rows: Iterable[Tensors]) -> bytes:
    """Return the graph with every large product with constant weights in int8, and activation ranges from `rows`.

    Raises ExportError if it has no such product, or if an activation is not finite.
    """
    model = onnx.load_from_string(graph)
    layers = _layers(model)
    if not layers:
        raise ExportError(
            f"int8: the graph has no layer of {_LEAST_INPUTS} inputs and {_LEAST_OUTPUTS} outputs or more"
        )
    ranges = _ranges(model, sorted({layer.activation for layer in layers.values()}), rows)
    nodes: list[onnx.NodeProto] = []
    rounded: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if place not in layers:
            nodes.append(node)
            continue
        layer = layers[place]
        if layer.activation not in rounded:
            rounded.add(layer.activation)
            nodes.append(_rounding(model.graph, layer.activation, ranges[layer.activation]))
        nodes += _product(model.graph, layer)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _drop_unused(model.graph)
    if not any(one.domain == _DOMAIN for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    quantised: bytes = model.SerializeToString()
    return quantised


def _layers(model: onnx.ModelProto) -> dict[int, _Layer]:
    """Return the layers to quantise, by index of their node."""
    constants, shapes = _constants(model.graph), _shapes(model)
    found = {}
    for place, node in enumerate(model.graph.node):
        layer = _layer(node, constants, shapes)
        if layer and layer.weights.shape[0] >= _LEAST_INPUTS and layer.weights.shape[1] >= _LEAST_OUTPUTS:
            found[place] = layer
    return found


def _constants(graph: onnx.GraphProto) -> dict[str, Floats]:
    """Return the known constants: initialisers, Constant nodes, and transposes of either."""
    tensors = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    known = {
        name: numpy_helper.to_array(one)
        for name, one in tensors.items()
        if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) in (1, 2)
    }
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]].T
    return known


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shapes of initialisers and inner tensors, as far as inferred; a varying axis is 0."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {one.name: list(one.dims) for one in graph.initializer}
    for value in graph.value_info:
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]
    return shapes


def _layer(node: onnx.NodeProto, known: Mapping[str, Floats], shapes: Mapping[str, list[int]]) -> _Layer | None:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in known or known[node.input[1]].ndim != 2:
        return None
    weights = known[node.input[1]]
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        return None
    if given.get("transB", 0):
        weights = weights.T
    added = node.input[2] if len(node.input) > 2 else ""
    width = weights.shape[1]
    return _Layer(node.input[0], node.output[0], weights, added, shapes.get(added) in ([width], [1, width]))


def _ranges(model: onnx.ModelProto, names: Sequence[str], rows: Iterable[Tensors]) -> dict[str, _Range]:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {one.name for one in model.graph.input} | {one.name for one in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    session = open_session(watched.SerializeToString())
    ranges = dict.fromkeys(names, _Range(0.0, 0.0))
    for tensors in rows:
        inner = [name for name in names if name not in tensors]
        found = {**tensors, **dict(zip(inner, session.run(inner, tensors), strict=True))} if inner else tensors
        for name, values in ((name, found[name]) for name in names):
            if not np.isfinite(values).all():
                raise ExportError(f"int8: {name} is not a finite number for a row of the dataset")
            low, high = ranges[name]
            ranges[name] = _Range(min(low, float(values.min())), max(high, float(values.max())))
    return ranges


def _rounding(graph: onnx.GraphProto, name: str, of: _Range) -> onnx.NodeProto:
    """Return the node that rounds an activation, once for all layers that read it."""
    graph.initializer.append(numpy_helper.from_array(np.array(of.scale), f"{name}.scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(of.zero), f"{name}.zero"))
    return helper.make_node("QuantizeLinear", [name, f"{name}.scale", f"{name}.zero"], [f"{name}.int8"])


def _product(graph: onnx.GraphProto, layer: _Layer) -> list[onnx.NodeProto]:
    """Return the nodes of the product of rounded activations and weights, back in fp32, and of the addition to it."""
    scales = (np.maximum(np.abs(layer.weights).max(0), 1e-8) / 127).astype(np.float32)
    made = {
        "weights": np.round(layer.weights / scales).astype(np.int8),
        "scales": scales,
        "zeros": np.zeros(len(scales), np.int8),
    }
    names = {kind: f"{layer.output}.{kind}" for kind in made}
    graph.initializer.extend(numpy_helper.from_array(made[kind], names[kind]) for kind in made)
    activation = (f"{layer.activation}.int8", f"{layer.activation}.scale", f"{layer.activation}.zero")
    inputs = [activation[0], names["weights"], activation[1], names["scales"], activation[2], names["zeros"]]
    nodes = []
    if layer.shared:
        # The operator itself adds a tensor of one axis, which saves a pass over its output.
        flat = np.array([-1], np.int64)
        graph.initializer.append(numpy_helper.from_array(flat, f"{layer.output}.flat"))
        nodes.append(helper.make_node("Reshape", [layer.added, f"{layer.output}.flat"], [f"{layer.output}.added"]))
        inputs.append(f"{layer.output}.added")
    if layer.shared or not layer.added:
        return [*nodes, helper.make_node("MatMulIntegerToFloat", inputs, [layer.output], domain=_DOMAIN)]
    product = f"{layer.output}.product"
    return [
        helper.make_node("MatMulIntegerToFloat", inputs, [product], domain=_DOMAIN),
        helper.make_node("Add", [product, layer.added], [layer.output]),
    ]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and fp32 weights that nothing reads any more."""
    outputs = {one.name for one in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        idle = [node for node in graph.node if not read & set(node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [one for one in graph.initializer if one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
