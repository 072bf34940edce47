"""Assembly of the new graph: the needed nodes in order, with the plain graph's names for inputs and outputs."""

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper, numpy_helper

from model_export.factorise.emit import Emitted, Tensor
from model_export.factorise.facts import captured, real_inputs


def write_model(
    plain: onnx.ModelProto,
    nodes: Sequence[Emitted],
    outputs: Mapping[str, Tensor],
    initializers: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """Return a model with the inputs, outputs and versions of `plain`; needed initialisers are taken from it."""
    needed = {tensor.name for tensor in outputs.values()}
    constants = {tensor.name: tensor for tensor in outputs.values() if tensor.value is not None}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if any(tensor.name in needed for tensor in node.outputs):
            kept.append(node.proto)
            needed |= {tensor.name for tensor in node.inputs}
            constants |= {tensor.name: tensor for tensor in node.inputs if tensor.value is not None}
    named = _named(kept, outputs)
    held = [initializers.get(name) or _initializer(tensor) for name, tensor in constants.items()]
    graph = helper.make_graph(
        [*reversed(kept), *named], plain.graph.name, real_inputs(plain.graph), list(plain.graph.output), held
    )
    model = helper.make_model(graph, opset_imports=plain.opset_import, ir_version=plain.ir_version)
    model.functions.extend(plain.functions)
    return model


def _named(nodes: Sequence[onnx.NodeProto], outputs: Mapping[str, Tensor]) -> list[onnx.NodeProto]:
    """Name the outputs that a node makes; return copying nodes for the others, inputs and constants."""
    # Names that subgraphs capture must stay.
    plain = not any(captured(node) for node in nodes)
    made = {name for node in nodes for name in node.output if plain}
    renamed: dict[str, str] = {}
    copies = []
    for name, tensor in outputs.items():
        if tensor.name in made and tensor.name not in renamed:
            renamed[tensor.name] = name
        else:
            source = renamed.get(tensor.name, tensor.name)
            copies.append(helper.make_node("Identity", [source], [name], name))
    for node in nodes:
        for places in (node.input, node.output):
            places[:] = [renamed.get(name, name) for name in places]
    return copies


def _initializer(tensor: Tensor) -> onnx.TensorProto:
    if tensor.value is None:
        raise TypeError(f"{tensor.name} is not a constant")
    # Not ascontiguousarray, which would add an axis to a scalar.
    return numpy_helper.from_array(tensor.value.copy(order="C"), tensor.name)
