"""Graphs as tree libraries write them: one matrix of all columns in, a label and both classes' probabilities out. They
become graphs with inputs by name and one click probability.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_export.errors import ExportError
from model_export.foreign.bind import TYPES, Columns, named_columns
from msd.contract.schema import FeatureSchema
from onnx_factorise.facts import real_inputs

_AXIS = "rows"
_KINDS = (TensorProto.INT64, TensorProto.INT32, TensorProto.STRING, TensorProto.BOOL)  # of labels
_LABELS = ("classlabels_int64s", "classlabels_strings", "classlabels_ints")


def with_named_inputs(model: ModelProto, names: Sequence[str], schema: FeatureSchema) -> ModelProto:
    """Return the graph with an input for each of the matrix' columns, in their order, in place of the matrix.

    A number is its value and its missing flag; if the matrix is so much narrower, all numbers are values alone. Raises
    ExportError if the graph has other inputs, a name is unknown, or the widths do not sum up to the matrix' width.
    """
    inputs = real_inputs(model.graph)
    if len(inputs) != 1:
        raise ExportError(f"--columns are those of a single input, and the graph has {len(inputs)}")
    known, matrix = named_columns(schema), inputs[0]
    if unknown := [name for name in names if name not in known]:
        raise ExportError(f"--columns: {unknown[0]!r} is not in the schema, which has {', '.join(sorted(known))}")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ExportError(f"--columns: names {repeated[0]!r} twice")
    widths = _widths(matrix, [known[name] for name in names])
    flat = f"{matrix.name}/shape"
    made, parts = [], []
    for name, width in zip(names, widths, strict=True):
        spec, part = known[name].tensor, f"{matrix.name}/{name}"
        made.append(helper.make_tensor_value_info(name, TYPES[spec.dtype], [_AXIS, *spec.shape[:-1], width]))
        parts.append(helper.make_node("Reshape", [name, flat], [f"{part}/flat"]))
        parts.append(helper.make_node("Cast", [f"{part}/flat"], [part], to=matrix.type.tensor_type.elem_type))
    parts.append(helper.make_node("Concat", [f"{matrix.name}/{name}" for name in names], [matrix.name], axis=1))
    found = _copy(model, [*parts, *model.graph.node], model.graph.output)
    kept = [one for one in model.graph.input if one.name != matrix.name]
    del found.graph.input[:]
    found.graph.input.extend([*made, *kept])
    found.graph.initializer.append(numpy_helper.from_array(np.array([0, -1], np.int64), flat))
    return found


def _widths(matrix: ValueInfoProto, columns: Sequence[Columns]) -> list[int]:
    """Return the number of values of the last axis that the matrix has of each name."""
    axes = matrix.type.tensor_type.shape.dim
    if len(axes) != 2:
        raise ExportError(f"--columns: the graph's input {matrix.name!r} has {len(axes)} axes; a matrix has 2")
    least = [one.width - one.optional for one in columns]
    sums = {}
    for widths in ([one.width for one in columns], least):
        of_each = [int(np.prod(one.tensor.shape[:-1])) * width for one, width in zip(columns, widths, strict=True)]
        sums[sum(of_each)] = widths
    width = axes[1].dim_value or max(sums)
    if width not in sums:
        either = " or ".join(str(one) for one in sorted(sums))
        raise ExportError(f"--columns: they are {either} wide, and the graph's input {matrix.name!r} is {width} wide")
    return sums[width]


def with_click_probability(model: ModelProto) -> ModelProto:
    """Return a classifier's graph with the probability [N] of a click in place of both classes', and without its label;
    any other graph as it is.

    Raises ExportError if it has more classes than two.
    """
    graph = model.graph
    maps = [node for node in graph.node if node.op_type == "ZipMap"]
    labels = [one for one in graph.output if one.type.tensor_type.elem_type in _KINDS]
    outputs = [one for one in graph.output if one not in labels]
    if not labels and not maps:
        return model
    if len(outputs) != 1:
        names = ", ".join(one.name for one in graph.output)
        raise ExportError(f"the outputs {names} are not a label and its probabilities; export the probability alone")
    name = outputs[0].name
    place, both = _place_of_click(graph.node), f"{name}/classes"
    nodes = []
    for node in graph.node:
        if node in maps:
            both = node.input[0]
            continue
        nodes.append(NodeProto())
        nodes[-1].CopyFrom(node)
        for names in (nodes[-1].input, nodes[-1].output):
            names[:] = [both if one == name else one for one in names]
    nodes.append(helper.make_node("Gather", [both, f"{name}/click"], [name], axis=1))
    found = _copy(model, nodes, [helper.make_tensor_value_info(name, TensorProto.FLOAT, [_AXIS])])
    found.graph.initializer.append(numpy_helper.from_array(np.array(place, np.int64), f"{name}/click"))
    return found


def _place_of_click(nodes: Sequence[NodeProto]) -> int:
    """Return the place of class 1 among a classifier's two."""
    labels = [label for node in nodes for label in _labels(node)]
    if len(set(labels)) > 2:
        raise ExportError(f"the graph predicts {len(set(labels))} classes; clicks are two, 0 and 1")
    return labels.index("1") if "1" in labels else 1


def _labels(node: NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        if attribute.name in _LABELS:
            for label in helper.get_attribute_value(attribute):
                yield label.decode() if isinstance(label, bytes) else str(label)


def _copy(model: ModelProto, nodes: Sequence[NodeProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
    """Return a copy with other nodes and outputs."""
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.node[:], found.graph.output[:], found.graph.value_info[:]
    found.graph.node.extend(nodes)
    found.graph.output.extend(outputs)
    return found
