"""Low-rank cross layers, x0 ⊙ (z U + b) with a narrow z (DCN-V2, arXiv 2008.13535, section 3.3).

The user's columns of x0 stay a map of z, so that the next layer's product composes. For such a column c, Σ x0_c (z U)_c
V_c = z (U diag(x0_c) V), whose matrix is made from the user once.
"""

from model_export.factorise.emit import Tensor
from model_export.factorise.rule import Rule
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import number
from model_export.factorise.values import Affine, Concat, Laid, Term

_WORTH = 2  # minimum user's columns per column of the narrow tensor, for the composed map to be smaller


def narrowed(scope: Scope, one: Laid, other: Laid) -> tuple[Laid, Laid] | None:
    """Return parts x0 and a product of two narrow matrices, cut as x0 is; None for other values."""
    if not scope.on(Rule.LOW_RANK):
        return None
    if isinstance(other, Concat):
        one, other = other, one
    if not isinstance(one, Concat) or not isinstance(other, Affine) or len(other.shape) != 2:
        return None
    if len(other.terms) != 1 or one.axis != 1 or one.shape != other.shape:
        return None
    term = other.terms[0]
    if term.by is not None or term.leaf.product is None or len(term.leaf.shape) != 2:
        return None
    rows, matrix = term.leaf.product
    if matrix.shape[1] != term.leaf.shape[1]:
        return None  # its rows were merged, or its columns split
    shared = sum(number(part.shape[1]) for part in one.parts if not part.varies)
    if _WORTH * number(rows.shape[1]) > shared:
        return None
    scope.credit(Rule.LOW_RANK)
    return one, Concat(other.shape, 1, tuple(_columns(scope, other.base, rows, matrix, one)))


def _columns(scope: Scope, base: Tensor | None, rows: Tensor, matrix: Tensor, like: Concat) -> list[Affine]:
    parts, start = [], 0
    for part in like.parts:
        end = start + number(part.shape[1])
        shape = (like.shape[0], end - start)
        leaf = scope.emit.product(rows, scope.emit.cut(matrix, 1, start, end), (rows.shape[0], end - start))
        parts.append(Affine(shape, (Term(leaf),), base and scope.emit.cut(base, 1, start, end)))
        start = end
    return parts


def composed(scope: Scope, term: Term, matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return (X, W diag(by) matrix) for a term (X W) · by with an X narrower than X W; None for other terms."""
    if not scope.on(Rule.LOW_RANK) or term.by is None or term.leaf.product is None or len(term.leaf.shape) != 2:
        return None
    rows, inner = term.leaf.product
    if number(rows.shape[1]) >= number(term.leaf.shape[1]) or inner.shape[1] != term.leaf.shape[1]:
        return None
    scope.credit(Rule.LOW_RANK)
    return rows, scope.emit.matmul(scope.emit.elementwise("Mul", inner, term.by), matrix)
