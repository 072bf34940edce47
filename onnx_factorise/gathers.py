"""Joined look-ups: columns of one index tensor, in tables of one width, as one look-up in a joined table."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from onnx_factorise.emit import Emitter, Tensor
from onnx_factorise.shapes import Shape, number

MOST_TABLE_BYTES = 64 * 2**20
_FEWEST = 3  # minimum number of look-ups, because a joined one costs three more operators


class _Lookup(NamedTuple):
    """A column of indices [B, F], looked up in a constant table [R, E]."""

    indices: Tensor
    column: int
    table: Tensor


def join_lookups(emit: Emitter, tensors: Sequence[Tensor], axis: int) -> list[Tensor]:
    """Return `tensors`, to be concatenated along `axis`, with runs of look-ups replaced by one tensor each.

    Joined tables are copies: those above 64 MiB are not made.
    """
    return [one for _, run in groupby(tensors, _key) for one in _joined(emit, list(run), axis)]


def _key(tensor: Tensor) -> object:
    found = _lookup(tensor)
    return tensor.name if found is None else (found.indices.name, tensor.shape, found.table.dtype)


def _lookup(tensor: Tensor) -> _Lookup | None:
    """Return what a tensor looks up, if it does."""
    kind, inputs = _source(tensor).made
    if kind != "Gather" or inputs[0].value is None or inputs[0].value.ndim != 2:
        return None
    cut, bounds = _source(inputs[1]).made
    if cut != "Slice" or len(bounds[0].shape) != 2:
        return None
    start, end, axis = (int(one.value[0]) for one in bounds[1:] if one.value is not None)
    return _Lookup(bounds[0], start, inputs[0]) if axis == 1 and end - start == 1 else None


def _source(tensor: Tensor) -> Tensor:
    return tensor.reshaped or tensor


def _joined(emit: Emitter, run: Sequence[Tensor], axis: int) -> Sequence[Tensor]:
    looked = [found for found in map(_lookup, run) if found is not None]
    tables = [found.table for found in looked]
    lengths = [number(table.shape[0]) for table in tables]
    if len(looked) < _FEWEST or not _side_by_side(run[0].shape, axis):
        return run
    width = number(tables[0].shape[1])
    if sum(lengths) * width * tables[0].dtype.itemsize > MOST_TABLE_BYTES:
        return run
    indices, columns = looked[0].indices, [found.column for found in looked]
    if columns != list(range(number(indices.shape[1]))):
        picked = emit.integers(*columns)
        indices = emit.op("Gather", [indices, picked], (indices.shape[0], len(columns)), axis=1)
    # Negative indices, from their own table's end, are not in schemas.
    starts = np.cumsum([0, *lengths[:-1]])[None].astype(indices.dtype)
    indices = emit.elementwise("Add", indices, emit.constant(starts))
    joined = emit.op("Concat", tables, (sum(lengths), width), axis=0)
    shape = (indices.shape[0], len(tables), width)
    found = emit.op("Gather", [joined, indices], shape, joined.dtype, axis=0)
    return [emit.reshape(found, (shape[0], len(tables) * width)) if len(run[0].shape) == 2 else found]


def _side_by_side(shape: Shape, axis: int) -> bool:
    """Return whether look-ups of that shape lie in memory as those of one node would: [B, E] or [B, 1, E]."""
    return (len(shape) == 2 and axis == 1) or (len(shape) == 3 and axis == 1 and shape[1] == 1)
