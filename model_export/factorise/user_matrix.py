"""(candidate · user) @ W: the user's tensor and W make one matrix, and all candidates are multiplied by it at once.

For target attention, Σ_d c_d h_td W_dk = c @ M with M[d, (t, k)] = h_td W_dk: one product of [N, D] with [D, T·K]
replaces N·T·D multiplications and a product of [N·T, D] with [D, K].
"""

from collections.abc import Sequence

from model_export.factorise.emit import Tensor
from model_export.factorise.rule import Rule
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import ITEMS, RuleDoesNotApply, Shape, broadcast, number, size

Scaled = tuple[Tensor, Tensor]


def fits(leaf: Tensor, by: Tensor) -> bool:
    """Return whether a leaf [N, 1 …, D] is scaled by rows [1, T …, D] that differ along T, so that a matrix pays."""
    between = by.shape[1:-1]
    ints = all(isinstance(dim, int) for dim in (*between, *leaf.shape[1:]))
    if leaf.shape[0] != ITEMS or by.shape[0] != 1 or not ints:
        return False
    return size(leaf.shape[1:-1]) == 1 and size(between) > 1


def multiply(scope: Scope, leaves: Sequence[tuple[Tensor, Sequence[Tensor], Sequence[Scaled]]]) -> Tensor:
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


def _matrix(scope: Scope, own: Sequence[Tensor], scaled: Sequence[Scaled], between: Shape) -> Tensor:
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
