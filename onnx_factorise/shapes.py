"""Shapes with axes that are numbers, the candidates or otherwise varying; and arithmetic on them.

A tensor without the item axis is the same for all candidates. The pass knows nothing else of sides.
"""

ITEMS = "N"
Dim = int | str
Shape = tuple[Dim, ...]


class RuleDoesNotApply(Exception):
    """Reason why a rule does not apply."""


def dim_of(observed: tuple[int, ...], candidates: tuple[int, ...]) -> Dim:
    """Return the axis that had these lengths with these numbers of candidates.

    `N`: the candidates. `N*k`: a multiple. `N?…`: any other dependence on them. Any other string: a length that varies
    without them (the last observation has other lengths of all other axes).
    """
    if len(set(observed)) == 1:
        return observed[0]
    times = observed[0] // candidates[0]
    if all(length == times * count for length, count in zip(observed, candidates, strict=True)):
        return ITEMS if times == 1 else f"{ITEMS}*{times}"
    said = ",".join(map(str, observed))
    return f"free {said}" if len(set(observed[:3])) == 1 else f"{ITEMS}?{said}"


def has_items(shape: Shape) -> bool:
    """Return whether any axis depends on the number of candidates."""
    return any(isinstance(dim, str) and dim.startswith(ITEMS) for dim in shape)


def broadcast(*shapes: Shape) -> Shape:
    """Return the shape of an elementwise operator's result. Raises RuleDoesNotApply if axes do not fit."""
    rank, result = max(map(len, shapes)), []
    for place in range(1, rank + 1):
        dims = {shape[-place] for shape in shapes if len(shape) >= place} - {1}
        if len(dims) > 1:
            raise RuleDoesNotApply(f"the shapes {' and '.join(map(str, shapes))} do not broadcast")
        result.append(dims.pop() if dims else 1)
    return tuple(reversed(result))


def with_dim(shape: Shape, axis: int, dim: Dim) -> Shape:
    """Return `shape` with another length of one axis, counted from the front."""
    return (*shape[:axis], dim, *shape[axis + 1 :])


def number(dim: Dim) -> int:
    """Return the length of a fixed axis. Raises RuleDoesNotApply if it varies."""
    if isinstance(dim, str):
        raise RuleDoesNotApply(f"an axis of varying length ({dim})")
    return dim


def size(shape: Shape) -> int:
    """Return the number of elements. Raises RuleDoesNotApply if an axis varies."""
    total = 1
    for dim in shape:
        total *= number(dim)
    return total


def size_or_none(shape: Shape) -> int | None:
    """Return the number of elements; None if it varies."""
    return size(shape) if all(isinstance(dim, int) for dim in shape) else None


def merged(shape: Shape) -> Dim:
    """Return the length of these axes merged into one. Raises RuleDoesNotApply if it is not a number or `N*k`."""
    factor = size(tuple(dim for dim in shape if dim != ITEMS))
    count = shape.count(ITEMS)
    if count > 1:
        raise RuleDoesNotApply("the item axis occurs twice")
    return factor if not count else ITEMS if factor == 1 else f"{ITEMS}*{factor}"
