"""Binding of a graph's inputs to the schema's columns by name, and of its outputs to heads.

An input has the name of a schema tensor, of a feature, or `history_` and an item feature. Knows no weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from model_export.errors import ExportError
from model_export.foreign.columns import Columns, named_columns
from msd.contract.assemble import Tensors
from msd.contract.schema import FeatureSchema

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
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    for one in inputs:
        if one.name not in known:
            raise ExportError(
                f"the graph's input {one.name!r} is not in the schema, which has {', '.join(sorted(known))}"
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
    for one in items:
        shape = _shape(one)
        if not shape or isinstance(shape[0], int):
            raise ExportError(
                f"the graph's input {one.name!r} is of items, and {shape}: it must take any number of them; export it "
                "with a dynamic first axis"
            )
        names.setdefault(shape[0], one.name)
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
