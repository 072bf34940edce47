"""Product value @ W, with a W that all candidates share: each part by its rows of W, each term by its scale.

(candidate · user) @ W: the user's tensor and W make one matrix, and all candidates are multiplied by it at once. For
target attention, Σ_d c_d h_td W_dk = c @ M with M[d, (t, k)] = h_td W_dk: one product of [N, D] with [D, T·K] replaces
N·T·D multiplications and a product of [N·T, D] with [D, K].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx_factorise.elementwise import merge
from onnx_factorise.emit import Tensor
from onnx_factorise.report import Rule
from onnx_factorise.scope import Scope
from onnx_factorise.shapes import ITEMS, RuleDoesNotApply, Shape, broadcast, number, size, with_dim
from onnx_factorise.values import Affine, Concat, Laid, Term

Pair = tuple[Tensor, Tensor]  # a tensor […, D] and its rows [D, K] of the matrix


@dataclass
class _Sorted:
    """Summands of a product, by kind of multiplication."""

    shared: list[Pair] = field(default_factory=list)
    plain: list[Pair] = field(default_factory=list)
    scaled: dict[Tensor, list[Pair]] = field(default_factory=dict)
    outer: list[Term] = field(default_factory=list)


def linear(scope: Scope, value: Laid, matrix: Tensor) -> Laid:
    """Return […, D] @ [D, K]."""
    shape = (*value.shape[:-1], matrix.shape[1])
    last = len(shape) - 1
    if isinstance(value, Concat):
        value = scope.coalesced(value)
    if isinstance(value, Concat) and value.axis != last:
        return value.map(lambda part: linear(scope, part, matrix), shape, value.axis)
    found, start = _Sorted(), 0
    parts = value.parts if isinstance(value, Concat) else (value,)
    for part in parts:
        end = start + number(part.shape[-1])
        affine = part if isinstance(part, Affine) else scope.wrap(scope.real(part), part.shape)
        rows, width = scope.emit.cut(matrix, 0, start, end), end - start
        if affine.base is not None:
            found.shared.append((scope.emit.filled(affine.base, last, width), rows))
        for term in affine.terms:
            _sort(scope, term, rows, width, found)
        start = end
    if len(parts) > 1 or found.shared:
        scope.credit(Rule.LINEAR)
    return _sum(scope, found, shape)


def _sort(scope: Scope, term: Term, rows: Tensor, width: int, found: _Sorted) -> None:
    leaf, by, emit = term.leaf, term.by, scope.emit
    last = len(leaf.shape) - 1
    if leaf.shape[-1] == 1 and width > 1:
        # One number per candidate times a shared row: the row is multiplied once.
        row = by or emit.scalar(1.0, leaf, len(leaf.shape))
        found.outer.append(Term(leaf, emit.matmul(emit.filled(row, last, width), rows)))
        return
    if by is not None and by.value is not None and size(by.shape[:-1]) == 1:
        # A constant row is folded into the matrix.
        column = emit.expand(emit.reshape(by, (number(by.shape[-1]), 1)), (width, 1))
        rows, by = emit.elementwise("Mul", rows, column), None
    if by is None:
        found.plain.append((leaf, rows))
        return
    if _scales_rows(leaf, by):
        found.scaled.setdefault(leaf, []).append((emit.filled(by, last, width), rows))
    else:
        found.plain.append((emit.elementwise("Mul", leaf, by), rows))


def _sum(scope: Scope, found: _Sorted, shape: Shape) -> Affine:
    leaves = [_user_matrix(scope, found)] if found.scaled else []
    leaves += [_product(scope, pairs) for pairs in _grouped(found.plain)]
    base: Tensor | None = None
    for pairs in _grouped(found.shared):
        base = scope.emit.add(base, _product(scope, pairs))
    terms: list[Term] = []
    for term in (*map(Term, leaves), *found.outer):
        merge(scope, terms, term)
    return Affine(shape, tuple(terms), base)


def _user_matrix(scope: Scope, found: _Sorted) -> Tensor:
    """Return one product for all scaled leaves; leaves that also occur unscaled are included at no cost."""
    own: dict[Tensor, list[Tensor]] = {leaf: [] for leaf in found.scaled}
    for leaf, rows in found.plain:
        if leaf in own:
            own[leaf].append(rows)
    found.plain = [pair for pair in found.plain if pair[0] not in own]
    return _multiplied(scope, [(leaf, own[leaf], pairs) for leaf, pairs in found.scaled.items()])


def _grouped(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Group the pairs whose tensors can be concatenated. One wide product can be quantised where narrow ones cannot."""
    groups: dict[tuple[Shape, bool], dict[Tensor, list[Tensor]]] = {}
    for tensor, rows in pairs:
        key = (tensor.shape[:-1], tensor.value is None)
        groups.setdefault(key, {}).setdefault(tensor, []).append(rows)
    return [[(t, rows) for t, several in group.items() for rows in several] for group in groups.values()]


def _product(scope: Scope, pairs: Sequence[Pair]) -> Tensor:
    """Return the sum of the products, as one product."""
    emit = scope.emit
    by_tensor: dict[Tensor, Tensor] = {}
    for tensor, rows in pairs:
        by_tensor[tensor] = rows if tensor not in by_tensor else emit.elementwise("Add", by_tensor[tensor], rows)
    last = len(pairs[0][0].shape) - 1
    joined = scope.concat(list(by_tensor), last)
    matrix = emit.concat(list(by_tensor.values()), 0)
    if joined.varies:
        return emit.product(joined, matrix, with_dim(joined.shape, last, matrix.shape[1]))
    return emit.matmul(joined, matrix)


def _scales_rows(leaf: Tensor, by: Tensor) -> bool:
    """Return whether a leaf [N, 1 …, D] is scaled by rows [1, T …, D] that differ along T, so that a matrix pays."""
    between = by.shape[1:-1]
    ints = all(isinstance(dim, int) for dim in (*between, *leaf.shape[1:]))
    if leaf.shape[0] != ITEMS or by.shape[0] != 1 or not ints:
        return False
    return size(leaf.shape[1:-1]) == 1 and size(between) > 1


def _multiplied(scope: Scope, leaves: Sequence[tuple[Tensor, Sequence[Tensor], Sequence[Pair]]]) -> Tensor:
    """Return Σ leaf @ own + (leaf · by) @ matrix [N, T …, K], over leaves with their own matrices and those scaled by
    rows.

    All matrices of a leaf are [D, K].
    """
    emit = scope.emit
    between: Shape = broadcast(*(by.shape[1:-1] for _, _, scaled in leaves for by, _ in scaled))
    columns = number(leaves[0][2][0][1].shape[1])
    built = [_matrix(scope, own, scaled, between) for _, own, scaled in leaves]
    rows = [emit.reshape(leaf, (ITEMS, leaf.shape[-1])) for leaf, _, _ in leaves]
    scope.credit(Rule.USER_MATRIX)
    return emit.product(emit.concat(rows, 1), emit.concat(built, 0), (ITEMS, *between, columns))


def _matrix(scope: Scope, own: Sequence[Tensor], scaled: Sequence[Pair], between: Shape) -> Tensor:
    """Return the matrix [D, T·K] of Σ by · matrix + own."""
    emit, (width, columns), rows = scope.emit, scaled[0][1].shape, size(between)
    summands = [emit.reshape(matrix, (width, 1, columns)) for matrix in own]
    for by, matrix in scaled:
        turned = emit.transpose(emit.reshape(emit.expand(by, (1, *between, width)), (rows, width)), (1, 0))
        by_rows = emit.reshape(turned, (width, rows, 1))
        summands.append(emit.elementwise("Mul", by_rows, emit.reshape(matrix, (width, 1, columns))))
    built = emit.add(*summands)
    if built is None:
        raise RuleDoesNotApply("nothing scaled")
    return emit.reshape(built, (width, rows * number(columns)))
