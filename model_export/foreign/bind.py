"""Binding of a graph's inputs to the schema's columns by name, and of its outputs to heads; and the graph that takes
the schema's tensors instead: user and context once, heads [N].

An input has the name of a schema tensor, of a feature, or `history_` and an item feature. Knows no weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper

from model_export.errors import ExportError
from msd.contract.schema import SIDES, STATE_FEATURES, FeatureSchema, TensorSpec
from msd.contract.tensors import Tensors
from onnx_factorise.facts import real_inputs


class Columns(NamedTuple):
    """A slice of the last axis of one of the schema's tensors; the last `optional` columns may be omitted."""

    tensor: TensorSpec
    chosen: slice
    optional: int = 0

    @property
    def width(self) -> int:
        """The number of columns."""
        return int(self.chosen.stop - self.chosen.start)

    def of(self, tensors: Tensors) -> NDArray[Any]:
        """Return [..., width] of its tensor."""
        chosen: NDArray[Any] = np.asarray(tensors[self.tensor.name])[..., self.chosen]
        return chosen


def named_columns(schema: FeatureSchema) -> dict[str, Columns]:
    """Return all names; if a feature and a tensor share one, it means the tensor.

    A number has its value and a missing flag; the flag may be omitted.
    """
    specs = {spec.name: spec for spec in schema.tensors}
    known: dict[str, Columns] = {}
    for side in SIDES:
        for indexed in schema.indexed(side):
            place = schema.columns[indexed.name]
            known[indexed.name] = Columns(specs[f"{side}_categorical"], place)
            if side == "item":
                known.setdefault(f"history_{indexed.name}", Columns(specs["history_categorical"], place))
        for numeric in schema.numerics(side):
            known[numeric.name] = Columns(specs[f"{side}_dense"], schema.columns[numeric.name], optional=1)
        if state := schema.state(side):
            start = schema.numeric_width(side)
            known[state.name] = Columns(specs[f"{side}_dense"], slice(start, start + len(STATE_FEATURES)))
    return known | {name: Columns(spec, slice(0, spec.shape[-1])) for name, spec in specs.items()}


_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_NUMBERS = (TensorProto.FLOAT, TensorProto.DOUBLE)


class Binding(NamedTuple):
    """Source of the input `name`: columns [..., w], without that axis if `flat`, once per item if `repeated`."""

    name: str
    columns: Columns
    flat: bool
    repeated: bool
    type: int

    def value(self, tensors: Tensors, candidates: int) -> NDArray[Any]:
        """Return the input's value for a request with a number of candidates."""
        array = self.columns.of(tensors)
        array = array[..., 0] if self.flat else array
        if self.repeated:
            array = np.repeat(array, candidates, 0)
        value: NDArray[Any] = np.ascontiguousarray(array, helper.tensor_dtype_to_np_dtype(self.type))
        return value


def bind_inputs(model: ModelProto, schema: FeatureSchema) -> list[Binding]:
    """Return the source of every input of the graph.

    Raises ExportError, naming the input, for a name that the schema lacks, a wrong type or width, a fixed number of
    items or two axes of items; also for a graph without item input.
    """
    known = named_columns(schema)
    inputs = real_inputs(model.graph)
    for one in inputs:
        if one.name not in known:
            hint = "; if it is a matrix of them, give its --columns" if len(inputs) == 1 else ""
            raise ExportError(
                f"the graph's input {one.name!r} is not in the schema, which has {', '.join(sorted(known))}{hint}"
            )
    axis = _item_axis([one for one in inputs if known[one.name].tensor.side == "item"])
    return [_bind(one, known[one.name], axis) for one in inputs]


def head_outputs(model: ModelProto, named: Mapping[str, str]) -> dict[str, str]:
    """Return the output of each head, pctr first: from `named`, else by the outputs' own names, else the only output.

    Raises ExportError for an output that does not exist or has more than one number per item, and if none is pctr.
    """
    outputs = {one.name: one for one in model.graph.output}
    heads = dict(named) or {name: name for name in outputs}
    if not named and len(outputs) == 1:
        heads = {"pctr": next(iter(outputs))}
    if "pctr" not in heads:
        raise ExportError(
            f"none of the outputs {', '.join(outputs)} is called pctr; say which is it, e.g. "
            f"--head pctr={next(iter(outputs))}"
        )
    for head, name in heads.items():
        if name not in outputs:
            raise ExportError(f"the head {head!r} is to be the output {name!r}; there are {', '.join(outputs)}")
        shape = _shape(outputs[name])
        # A second axis of unknown length is left to the proof, which counts the scores.
        if len(shape) not in (1, 2) or (isinstance(shape[-1], int) and len(shape) == 2 and shape[-1] != 1):
            raise ExportError(f"the output {name!r} is {shape}; a head is one number an item: [N] or [N, 1]")
        if isinstance(shape[0], int):
            raise ExportError(f"the output {name!r} is {shape}, for {shape[0]} items only, not for any number")
    return {"pctr": heads["pctr"], **heads}


def _item_axis(items: Sequence[ValueInfoProto]) -> str | None:
    """Return the name of the items' axis; None if it has no name."""
    if not items:
        raise ExportError("the graph has no item input, so all candidates would get the same score")
    names: dict[str | None, str] = {}
    for item in items:
        shape = _shape(item)
        if not shape or isinstance(shape[0], int):
            raise ExportError(
                f"the graph's input {item.name!r} is of items, and {shape}: it must take any number of them; export it "
                "with a dynamic first axis"
            )
        names.setdefault(shape[0], item.name)
    if len(named := {axis: name for axis, name in names.items() if axis is not None}) > 1:
        told = " and ".join(f"{axis!r} of {name!r}" for axis, name in list(named.items())[:2])
        raise ExportError(f"the graph's inputs have two axes of items, {told}; give them one dynamic axis")
    return next(iter(named), None)


def _bind(one: ValueInfoProto, columns: Columns, item_axis: str | None) -> Binding:
    spec, shape, type_ = columns.tensor, _shape(one), one.type.tensor_type.elem_type
    if type_ not in (_INTEGERS if spec.dtype == "int32" else _NUMBERS):
        raise ExportError(
            f"the graph's input {one.name!r} is {helper.tensor_dtype_to_string(type_)}; the schema gives {spec.dtype}"
        )
    repeated = False
    if spec.side != "item":
        first = shape[0] if shape else None
        if isinstance(first, int) and first != 1:
            raise ExportError(
                f"the graph's input {one.name!r} belongs to the {spec.side}, one per request, but is {shape}; export it"
                " with a first axis of 1, or with the items' axis"
            )
        repeated = first is not None and first == item_axis
    for width in range(columns.width, columns.width - columns.optional - 1, -1):
        for flat in (False, True)[: 1 + (width == 1)]:
            if _fits(shape, [*spec.shape[:-1], *([] if flat else [width])]):
                start = columns.chosen.start
                return Binding(one.name, columns._replace(chosen=slice(start, start + width)), flat, repeated, type_)
    raise ExportError(
        f"the graph's input {one.name!r} is {shape}; what the schema has of that name is "
        f"{[shape[0] if shape else 1, *spec.shape[:-1], columns.width]}"
    )


def _fits(shape: Sequence[int | str | None], rest: Sequence[int]) -> bool:
    """Return whether all axes but the first have the given lengths, or are free."""
    return len(shape) == len(rest) + 1 and all(
        length == due or not isinstance(length, int) for length, due in zip(shape[1:], rest, strict=True)
    )


def _shape(value: ValueInfoProto) -> list[int | str | None]:
    """Return the axes: a fixed length, a dynamic axis' name, or None if it has no name."""
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in value.type.tensor_type.shape.dim
    ]


ITEM_AXIS = "candidates"
_PREFIX = "own/"
_IR = 4  # the first in which weights need not be inputs
TYPES = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def spliced_graph(
    model: ModelProto, bindings: Sequence[Binding], schema: FeatureSchema, heads: Mapping[str, str]
) -> ModelProto:
    """Return the graph with all schema tensors as inputs, the user side once, and heads [N]. `heads`: head → output."""
    inner = compose.add_prefix(model, _PREFIX)
    item = next(spec for spec in schema.tensors if spec.side == "item")
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    for binding in bindings:
        nodes += _adapt(binding, item.name, constants)
    tails: list[NodeProto] = []
    for head, output in heads.items():
        tails += _tail(head, f"{_PREFIX}{output}", constants)
    graph = helper.make_graph(
        [*nodes, *inner.graph.node, *tails],
        "ranker",
        [input_of(spec) for spec in schema.tensors],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, [ITEM_AXIS]) for head in heads],
        [*inner.graph.initializer, *constants],
    )
    bound = helper.make_model(graph, opset_imports=inner.opset_import, ir_version=max(inner.ir_version, _IR))
    onnx.checker.check_model(bound)
    return onnx.shape_inference.infer_shapes(bound, data_prop=True)


def _adapt(binding: Binding, item: str, constants: list[TensorProto]) -> list[NodeProto]:
    """Return the nodes from a schema tensor to an input, with operators that are the same in every opset."""
    spec, value = binding.columns.tensor, binding.columns.tensor.name
    base = f"bind/{binding.name}"
    steps: list[NodeProto] = []

    def step(op: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - what onnx takes for attributes
        output = f"{base}/{len(steps)}"
        steps.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(name: str, array: NDArray[np.int64]) -> str:
        constants.append(numpy_helper.from_array(array, f"{base}/{name}"))
        return f"{base}/{name}"

    chosen, rest = binding.columns.chosen, list(spec.shape[:-1])
    if (chosen.start, chosen.stop) != (0, spec.shape[-1]):
        places = constant("columns", np.arange(chosen.start, chosen.stop))
        value = step("Gather", value, places, axis=len(spec.shape))
    if binding.flat:
        value = step("Reshape", value, constant("flat", np.zeros(len(spec.shape), np.int64)))
    else:
        rest.append(chosen.stop - chosen.start)
    if binding.repeated:
        count = step("Gather", step("Shape", item), constant("first", np.zeros(1, np.int64)), axis=0)
        shape = step("Concat", count, constant("rest", np.array(rest, np.int64)), axis=0)
        value = step("Expand", value, shape)
    steps.append(helper.make_node("Cast", [value], [f"{_PREFIX}{binding.name}"], to=binding.type))
    return steps


def _tail(head: str, output: str, constants: list[TensorProto]) -> list[NodeProto]:
    """Return the nodes from an output [N] or [N, 1] of any float type to a head."""
    base = f"bind/{head}"
    constants.append(numpy_helper.from_array(np.array([-1], np.int64), f"{base}/shape"))
    flat = helper.make_node("Reshape", [output, f"{base}/shape"], [f"{base}/flat"])
    return [flat, helper.make_node("Cast", [f"{base}/flat"], [head], to=TensorProto.FLOAT)]


def input_of(spec: TensorSpec) -> ValueInfoProto:
    """Return a schema tensor as an input of a ranker's graph."""
    return helper.make_tensor_value_info(
        spec.name, TYPES[spec.dtype], [ITEM_AXIS if spec.side == "item" else 1, *spec.shape]
    )
