"""Facts about each tensor of a plain graph, found by running it with a few numbers of candidates.

Shapes that exporters compute inside a graph (Shape, Gather, Where, Expand …) are found like declared ones, and tensors
that depend on no input's contents as constants. No operator needs its own inference.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_factorise.errors import CannotRun
from onnx_factorise.evaluate import Evaluator, Feeds
from onnx_factorise.shapes import ITEMS, Dim, Shape, dim_of

_CANDIDATES = (5, 7, 11, 7)
_OTHER_AXES = ((17, 19, 23, 29, 31), (37, 41, 43, 47, 53))
_MOST_LENGTHS = 16
# The shape of these operators' results depends on the contents of the inputs at these places; None: of any input.
_SHAPED_BY: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("NonZero", "Unique", "Compress", "NonMaxSuppression", "StringSplit")),
    **dict.fromkeys(("Resize", "Upsample", "Range", "Col2Im", "MaxUnpool", "CenterCropPad", "TfIdfVectorizer")),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "TopK", "OneHot", "Unsqueeze", "Squeeze", "Split"), (1,)),
    **dict.fromkeys(("Slice", "Pad"), (1, 2, 3, 4)),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), (1,)),
    "ConstantOfShape": (0,),
}
_SHAPED_AS_GIVEN = ("Inverse",)  # operators of ONNX Runtime's own that our graphs have
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


@dataclass(frozen=True)
class Fact:
    """Shape of one tensor, None if it depends on contents; and its value, if it depends on no input's contents."""

    shape: Shape | None
    dtype: np.dtype[Any]
    value: NDArray[Any] | None = None
    """The value, of length 1 along the item axis."""
    lengths: tuple[Dim, ...] | None = None
    """Elements of a tensor that holds only axis lengths."""


def find_facts(model: onnx.ModelProto, axis: str) -> dict[str, Fact]:
    """Return facts by name of the graph's inputs and nodes' outputs. `axis`: name of the item axis."""
    # Copies reveal nothing, and may be of large tables.
    names = [name for node in model.graph.node if node.op_type != "Identity" for name in node.output if name]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    evaluator = Evaluator(probe, "the graph")
    try:
        runs = _runs(evaluator, names, _settings(model, axis, 1))
    except CannotRun:  # a table of one row has no index 1
        runs = _runs(evaluator, names, _settings(model, axis, 0))
    depends, candidates = _content(model.graph), _CANDIDATES[: len(runs)]
    return {name: _fact([run[name] for run in runs], candidates, *depends.get(name, (True, False))) for name in runs[0]}


def _runs(evaluator: Evaluator, names: Sequence[str], settings: Iterable[Feeds]) -> list[dict[str, Any]]:
    return [dict(zip(names, evaluator.run(names, feeds), strict=True)) | dict(feeds) for feeds in settings]


def _settings(model: onnx.ModelProto, axis: str, fill: int) -> Iterator[Feeds]:
    """Yield inputs filled with one number; not 0 if avoidable, because integers cannot be divided by it."""
    others: dict[str, int] = {}
    for place, count in enumerate(_CANDIDATES):
        lengths = _OTHER_AXES[place // 3]
        feeds = {}
        for value in real_inputs(model.graph):
            tensor = value.type.tensor_type
            shape: list[int] = []
            for dim in tensor.shape.dim:
                if dim.HasField("dim_value"):
                    shape.append(dim.dim_value)
                elif dim.dim_param == axis:
                    shape.append(count)
                else:
                    shape.append(lengths[others.setdefault(dim.dim_param, len(others)) % len(lengths)])
            feeds[value.name] = np.full(shape, fill, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if place == 3 and not others:
            return
        yield feeds


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that must be fed: those that are not initialisers."""
    held = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in held]


def _content(graph: onnx.GraphProto) -> dict[str, tuple[bool, bool]]:
    """Return by name whether a tensor's contents, and whether its shape, depend on the inputs' contents."""
    known = {value.name: (True, False) for value in real_inputs(graph)}
    for node in graph.node:
        given = [known.get(name, (False, False)) for name in node.input]
        wild = any(shaped for _, shaped in given)
        content = wild or any(contents for contents, _ in given) or node.op_type in _RANDOM
        if node.domain not in ("", "ai.onnx"):
            wild = wild or (content and node.op_type not in _SHAPED_AS_GIVEN)
        elif node.op_type in _SHAPED_BY or node.op_type.startswith(("Sequence", "Optional")):
            places = _SHAPED_BY.get(node.op_type)
            wild = wild or any(c for place, (c, _) in enumerate(given) if places is None or place in places)
        if node.op_type in ("Shape", "Size") and not wild:
            content = False
        known |= dict.fromkeys(node.output, (content, wild))
    return known


def _fact(found: Sequence[Any], candidates: tuple[int, ...], content: bool, wild: bool) -> Fact:
    if wild or not all(isinstance(one, np.ndarray) for one in found):
        return Fact(None, found[0].dtype if isinstance(found[0], np.ndarray) else np.dtype(object))
    if len({one.ndim for one in found}) > 1:
        return Fact(None, found[0].dtype)
    lengths = zip(*(one.shape for one in found), strict=True)
    shape = tuple(dim_of(observed, candidates) for observed in lengths)
    if content:
        return Fact(shape, found[0].dtype)
    return Fact(shape, found[0].dtype, _same(found, shape), _lengths(found, candidates))


def _same(found: Sequence[NDArray[Any]], shape: Shape) -> NDArray[Any] | None:
    """Return the value if it is the same for all candidates and in all runs."""
    if any(isinstance(dim, str) and dim != ITEMS for dim in shape):
        return None
    first = found[0][tuple(slice(0, 1) if dim == ITEMS else slice(None) for dim in shape)]
    # A constant's NaNs count as equal; strings have no NaN.
    same = all(np.array_equal(np.broadcast_to(first, one.shape), one, first.dtype.kind == "f") for one in found)
    return first if same else None


def _lengths(found: Sequence[NDArray[Any]], candidates: tuple[int, ...]) -> tuple[Dim, ...] | None:
    first = found[0]
    if first.dtype.kind != "i" or first.ndim > 1 or first.size > _MOST_LENGTHS:
        return None
    if len({one.shape for one in found}) > 1:
        return None
    columns = zip(*(one.reshape(-1).tolist() for one in found), strict=True)
    return tuple(dim_of(observed, candidates) for observed in columns)
