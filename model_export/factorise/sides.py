"""Checks of a graph's axes against its inputs' declared sides; errors name the input."""

from collections.abc import Mapping

import onnx

from model_export.errors import ExportError
from model_export.factorise.facts import Fact, real_inputs
from model_export.factorise.shapes import has_items
from msd.contract.schema import Side

_OLDEST_OPSET = 18


def checked_axis(model: onnx.ModelProto, sides: Mapping[str, Side]) -> str:
    """Return the name of the item axis, empty if it is unnamed. Raises ExportError, naming the input."""
    _check_opset(model)
    inputs = {value.name: value for value in real_inputs(model.graph)}
    for name in inputs:
        if name not in sides:
            raise ExportError(
                f"input {name!r} of the graph has no declared side; say whether it is user, context or item"
            )
    for name, side in sides.items():
        if name not in inputs:
            raise ExportError(f"side {side!r} is declared for {name!r}, which is not an input of the graph")
    axes = {name: _checked_first(inputs[name], side) for name, side in sides.items()}
    items = {name: axis for name, axis in axes.items() if sides[name] == "item"}
    if not items:
        raise ExportError("the graph has no item axis: none of its inputs is declared to be the item's")
    first, axis = next(iter(items.items()))
    for name, other in items.items():
        if other != axis:
            raise ExportError(
                f"the graph has two item axes: {axis!r} of input {first!r} and {other!r} of input {name!r}; "
                "export it with one name for both"
            )
    for name, value in inputs.items():
        _check_others(value, axis, sides[name])
    return axis


def _check_opset(model: onnx.ModelProto) -> None:
    found = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    if found < _OLDEST_OPSET:
        raise ExportError(f"the graph is of opset {found}; export it with opset {_OLDEST_OPSET} or later")


def _checked_first(value: onnx.ValueInfoProto, side: Side) -> str:
    """Return the name of an item input's first axis; empty for other sides, whose first axis is 1."""
    dims = value.type.tensor_type.shape.dim
    first = dims[0] if dims else None
    if side == "item":
        if first is None:
            raise ExportError(f"input {value.name!r} is declared to be the item's and has no axes")
        if first.HasField("dim_value"):
            raise ExportError(
                f"input {value.name!r} is declared to be the item's, but its first axis is fixed at {first.dim_value}; "
                "export it with a dynamic first axis"
            )
        return str(first.dim_param)
    if first is None or not first.HasField("dim_value") or first.dim_value != 1:
        found = "missing" if first is None else first.dim_param or first.dim_value if first.ByteSize() else "unknown"
        raise ExportError(
            f"input {value.name!r} is declared to be the {side}'s, but its first axis is {found}, not 1; "
            "declare it as the item's, or export it with one row"
        )
    return ""


def _check_others(value: onnx.ValueInfoProto, axis: str, side: Side) -> None:
    for place, dim in enumerate(value.type.tensor_type.shape.dim):
        if place and axis and dim.dim_param == axis:
            raise ExportError(f"input {value.name!r} of side {side!r} has the item axis {axis!r} as axis {place} too")


def checked_outputs(model: onnx.ModelProto, facts: Mapping[str, Fact]) -> None:
    """Raise ExportError, naming the output, if one has no item axis."""
    for value in model.graph.output:
        fact = facts.get(value.name)
        if fact is not None and fact.shape is not None and not has_items(fact.shape):
            raise ExportError(
                f"output {value.name!r} has the shape {list(fact.shape)}, without the item axis: "
                "it gives no score by candidate"
            )
