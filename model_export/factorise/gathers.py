"""Joined look-ups: columns of one index tensor, in tables of one width, as one look-up in a joined table."""

from collections.abc import Sequence

import numpy as np

from model_export.factorise.emit import Emitter, Lookup, Tensor
from model_export.factorise.shapes import Shape, number

MOST_TABLE_BYTES = 64 * 2**20
_FEWEST = 3  # minimum number of look-ups, because a joined one costs three more operators


def join_lookups(emit: Emitter, tensors: Sequence[Tensor], axis: int) -> list[Tensor]:
    """Return `tensors`, to be concatenated along `axis`, with runs of look-ups replaced by one tensor each.

    Joined tables are copies: those above 64 MiB are not made.
    """
    joined: list[Tensor] = []
    run: list[Tensor] = []
    for tensor in (*tensors, None):
        if tensor is not None and run and _fits(run[0], tensor):
            run.append(tensor)
            continue
        joined += _one(emit, run, axis) if run else []
        run = [] if tensor is None else [tensor]
    return joined


def _fits(first: Tensor, other: Tensor) -> bool:
    one, two = first.lookup, other.lookup
    if one is None or two is None or one.table is None or two.table is None:
        return False
    return one.indices is two.indices and first.shape == other.shape and one.table.dtype == two.table.dtype


def _one(emit: Emitter, run: Sequence[Tensor], axis: int) -> list[Tensor]:
    looked = [tensor.lookup for tensor in run if tensor.lookup is not None]
    tables = [lookup.table for lookup in looked if lookup.table is not None]
    if len(tables) < _FEWEST or not _side_by_side(run[0].shape, axis):
        return list(run)
    values = [table.value for table in tables if table.value is not None]
    if len(values) < len(tables) or sum(value.nbytes for value in values) > MOST_TABLE_BYTES:
        return list(run)
    indices = _offset(emit, looked, [len(value) for value in values])
    width = number(tables[0].shape[1])
    shape = (indices.shape[0], len(values), width)
    joined = emit.op("Concat", tables, (sum(map(len, values)), width), axis=0)
    found = emit.op("Gather", [joined, indices], shape, tables[0].dtype, axis=0)
    return [emit.reshape(found, (shape[0], len(values) * width)) if len(run[0].shape) == 2 else found]


def _side_by_side(shape: Shape, axis: int) -> bool:
    """Return whether look-ups of that shape lie in memory as those of one node would: [B, E] or [B, 1, E]."""
    return (len(shape) == 2 and axis == 1) or (len(shape) == 3 and axis == 1 and shape[1] == 1)


def _offset(emit: Emitter, looked: Sequence[Lookup], lengths: Sequence[int]) -> Tensor:
    """Return indices [B, M] in the joined table. Negative ones, from their own table's end, are not in schemas."""
    indices, columns = looked[0].indices, [lookup.column for lookup in looked]
    if columns != list(range(number(indices.shape[1]))):
        picked = emit.integers(*columns)
        indices = emit.op("Gather", [indices, picked], (indices.shape[0], len(columns)), axis=1)
    starts = np.cumsum([0, *lengths[:-1]])[None]
    return emit.elementwise("Add", indices, emit.constant(starts.astype(indices.dtype)))
