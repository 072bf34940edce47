"""Layout operators, applied to parts, sums and products one by one."""

from collections.abc import Mapping, Sequence

from onnx_factorise.emit import Tensor
from onnx_factorise.report import Rule
from onnx_factorise.scope import Handler, Node, Scope
from onnx_factorise.shapes import RuleDoesNotApply, Shape, broadcast, has_items, number, size, with_dim
from onnx_factorise.values import Affine, Concat, Laid, Value


def reshaped(scope: Scope, value: Laid, shape: Shape) -> Laid:
    """Reshape a value. Raises RuleDoesNotApply if the item axis would be merged."""
    if shape == value.shape:
        return value
    moves = _moves(value, shape)
    if moves is not None:
        return _remapped(scope, value, moves, shape)
    same = 0
    while same < min(len(shape), len(value.shape)) and shape[same] == value.shape[same]:
        same += 1
    if isinstance(value, Concat):
        value = scope.coalesced(value)
    if isinstance(value, Concat):
        whole = value
        if whole.axis < same:
            return whole.map(
                lambda part: reshaped(scope, part, with_dim(shape, whole.axis, part.shape[whole.axis])),
                shape,
                whole.axis,
            )
        if whole.axis == same == len(shape) - 1:
            flat = [(part, with_dim(shape, same, size(part.shape[same:]))) for part in whole.parts]
            return Concat(shape, same, tuple(reshaped(scope, part, to) for part, to in flat))
    if has_items(value.shape[same:]):
        raise RuleDoesNotApply("a reshape that merges the item axis")
    tensor = scope.emit.aligned(scope.real(value), len(value.shape))
    tensor = scope.emit.expand(tensor, tensor.shape[:same] + value.shape[same:])
    return scope.wrap(scope.emit.reshape(tensor, tensor.shape[:same] + shape[same:]), shape)


def _moves(value: Laid, shape: Shape) -> list[int | None] | None:
    """Return the source of each axis of `shape`, None for a new axis of 1; None if axes other than 1 change."""
    old = [axis for axis, dim in enumerate(value.shape) if dim != 1]
    new = [axis for axis, dim in enumerate(shape) if dim != 1]
    if [value.shape[axis] for axis in old] != [shape[axis] for axis in new]:
        return None
    if isinstance(value, Concat) and not _keeps_parts(value, old):
        return None
    source = dict(zip(new, old, strict=True))
    return [source.get(axis) for axis in range(len(shape))]


def _keeps_parts(value: Concat, kept: Sequence[int]) -> bool:
    return value.axis in kept and all(_keeps_parts(p, kept) for p in value.parts if isinstance(p, Concat))


def _remapped(scope: Scope, value: Laid, moves: Sequence[int | None], shape: Shape) -> Laid:
    if isinstance(value, Concat):
        axis = moves.index(value.axis)
        parts = [(part, with_dim(shape, axis, part.shape[value.axis])) for part in value.parts]
        return Concat(shape, axis, tuple(_remapped(scope, part, moves, to) for part, to in parts))
    rank = len(value.shape)

    def change(tensor: Tensor) -> Tensor:
        tensor = scope.emit.aligned(tensor, rank)
        return scope.emit.reshape(tensor, tuple(1 if move is None else tensor.shape[move] for move in moves))

    return value.map(change, shape)


def transpose(scope: Scope, node: Node) -> Laid:
    """Apply Transpose."""
    value = node.input(0)
    return _transposed(scope, value, tuple(node.attributes.get("perm") or reversed(range(len(value.shape)))))


def _transposed(scope: Scope, value: Laid, order: Sequence[int]) -> Laid:
    """Reorder axes."""
    shape = tuple(value.shape[axis] for axis in order)
    if isinstance(value, Concat):
        return value.map(lambda part: _transposed(scope, part, order), shape, list(order).index(value.axis))
    return value.map(lambda tensor: scope.emit.transpose(scope.emit.aligned(tensor, len(order)), order), shape)


def _expanded(scope: Scope, value: Laid, shape: Shape) -> Laid:
    """Repeat axes of 1."""
    missing = len(shape) - len(value.shape)
    if missing:
        value = reshaped(scope, value, (1,) * missing + value.shape)
    if broadcast(value.shape, shape) != shape:
        raise RuleDoesNotApply("a repetition of an axis that is not 1")
    if isinstance(value, Concat):
        whole = value
        if whole.shape[whole.axis] != shape[whole.axis]:
            raise RuleDoesNotApply("a repetition of parts")
        return whole.map(
            lambda p: _expanded(scope, p, with_dim(shape, whole.axis, p.shape[whole.axis])), shape, whole.axis
        )
    if not all(map(scope.emit.can_tell, shape)):
        raise RuleDoesNotApply("a repetition whose length is told nowhere")
    if has_items(shape) and not value.varies:
        scope.credit(Rule.BROADCAST)
    return Affine(shape, value.terms, value.base)


def concat(scope: Scope, node: Node) -> Laid:
    """Apply Concat."""
    shape = node.shape
    axis = node.axis(0, len(shape))
    if has_items((shape[axis],)):
        raise RuleDoesNotApply("a Concat of candidates")
    return Concat(shape, axis, node.given)


def sliced(scope: Scope, value: Laid, axis: int, start: int, end: int) -> Laid:
    """Return an axis' range from `start` up to `end`."""
    shape = with_dim(value.shape, axis, end - start)
    if (start, end) == (0, value.shape[axis]):
        return value
    if isinstance(value, Affine):
        rank = len(shape)
        return value.map(lambda tensor: scope.emit.cut(scope.emit.aligned(tensor, rank), axis, start, end), shape)
    if value.axis != axis:
        return value.map(lambda part: sliced(scope, part, axis, start, end), shape, value.axis)
    parts, before = [], 0
    for part in value.parts:
        length = number(part.shape[axis])
        first, last = max(start - before, 0), min(end - before, length)
        if first < last:
            parts.append(sliced(scope, part, axis, first, last))
        before += length
    return parts[0] if len(parts) == 1 else Concat(shape, axis, tuple(parts))


def slice_(scope: Scope, node: Node) -> Laid:
    """Apply Slice with step 1 and constant bounds."""
    value = node.input(0)
    starts, ends, axes, steps = (node.constant(place) for place in (1, 2, 3, 4))
    if starts is None or ends is None or (steps is not None and (steps != 1).any()):
        raise RuleDoesNotApply("a Slice with steps")
    places = range(len(starts)) if axes is None else axes.tolist()
    for axis, start, end in zip(places, starts.tolist(), ends.tolist(), strict=True):
        place = int(axis) % len(value.shape)
        if value.shape[place] == node.shape[place] and start == 0:
            continue
        length = number(value.shape[place])
        first, last, _ = slice(start, end).indices(length)
        value = sliced(scope, value, place, first, last)
    return value


def split(scope: Scope, node: Node) -> list[Value]:
    """Apply Split."""
    value = node.input(0)
    axis = node.axis(0, len(value.shape))
    parts: list[Value] = []
    start = 0
    for shape in node.shapes:
        end = start + number(shape[axis])
        parts.append(sliced(scope, value, axis, start, end))
        start = end
    return parts


def gather(scope: Scope, node: Node) -> Laid:
    """Apply Gather: a look-up in a table, or one place of an axis."""
    data, indices = node.input(0), node.input(1)
    axis = node.axis(0, len(data.shape))
    table = data.base if isinstance(data, Affine) and not data.varies else None
    if table is not None and table.value is not None and axis == 0:
        rows = scope.real(indices)
        return scope.wrap(scope.emit.op("Gather", [table, rows], rows.shape + table.shape[1:], axis=0), node.shape)
    place = node.constant(1)
    if place is None or place.ndim or has_items((data.shape[axis],)):
        raise RuleDoesNotApply("a Gather of many places")
    length = number(data.shape[axis])
    at = int(place) % length
    picked = sliced(scope, data, axis, at, at + 1)
    return reshaped(scope, picked, node.shape)


_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")  # all by the resulting shape
HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(_RESHAPES, lambda scope, node: reshaped(scope, node.input(0), node.shape)),
    **dict.fromkeys(("Expand", "Tile"), lambda scope, node: _expanded(scope, node.input(0), node.shape)),
    "Transpose": transpose,
    "Concat": concat,
    "Slice": slice_,
    "Split": split,
    "Gather": gather,
}
