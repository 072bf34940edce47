"""MatMul and Gemm: applied part by part, or as a linear map, an outer product or a sum."""

from collections.abc import Mapping

from onnx_factorise.elementwise import apply
from onnx_factorise.linear import linear
from onnx_factorise.report import Rule
from onnx_factorise.scope import Handler, Node, Scope
from onnx_factorise.shapes import RuleDoesNotApply, Shape, number, size_or_none, with_dim
from onnx_factorise.values import Concat, Laid


def gemm(scope: Scope, node: Node) -> Laid:
    """Apply Gemm: alpha · A @ B + beta · C, with alpha and beta of 1, as in a linear layer."""
    attributes = node.attributes
    if attributes.get("transA") or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        raise RuleDoesNotApply("a Gemm with transA, alpha or beta")
    rows, matrix = node.input(0), node.input(1)
    if matrix.varies:
        raise RuleDoesNotApply("a Gemm whose matrix is not shared")
    weights = scope.real(matrix)
    if attributes.get("transB"):
        weights = scope.emit.transpose(weights, (1, 0))
    made = linear(scope, rows, weights)
    added = node.inputs[2] if len(node.inputs) > 2 else None
    return made if added is None else apply(scope, "Add", [made, added], node.shape)


def multiplied(scope: Scope, one: Laid, other: Laid, shape: Shape) -> Laid:
    """Return one @ other, by numpy's rules for more than two axes."""
    if min(len(one.shape), len(other.shape)) < 2:
        raise RuleDoesNotApply("a product with a tensor of one axis")
    found = _shared_matrix(scope, one, other, shape) or _by_parts(scope, one, other, shape)
    if found is None:
        left, right = scope.filled(one, len(one.shape) - 1), scope.filled(other, len(other.shape) - 2)
        found = scope.wrap(scope.emit.matmul(left, right), shape)
    return found


def _shared_matrix(scope: Scope, one: Laid, other: Laid, shape: Shape) -> Laid | None:
    """Return [N, …, D] @ [D, K]; None for other products."""
    if other.varies or not one.varies or len(one.shape) < len(other.shape):
        return None
    matrix = scope.real(other)
    if size_or_none(matrix.shape[:-2]) != 1 or size_or_none(other.shape[-2:]) is None:
        return None
    whole = scope.emit.expand(matrix, (*matrix.shape[:-2], *other.shape[-2:]))
    return linear(scope, one, scope.emit.reshape(whole, other.shape[-2:]))


def _by_parts(scope: Scope, one: Laid, other: Laid, shape: Shape) -> Laid | None:
    rank = len(shape)
    if isinstance(one, Concat) and one.axis == len(one.shape) - 2:
        joined = scope.coalesced(one)
        if isinstance(joined, Concat):
            rows = [(p, with_dim(shape, rank - 2, p.shape[-2])) for p in joined.parts]
            return Concat(shape, rank - 2, tuple(multiplied(scope, p, other, s) for p, s in rows))
    if isinstance(other, Concat) and other.axis == len(other.shape) - 1:
        joined = scope.coalesced(other)
        if isinstance(joined, Concat):
            columns = [(p, with_dim(shape, rank - 1, p.shape[-1])) for p in joined.parts]
            return Concat(shape, rank - 1, tuple(multiplied(scope, one, p, s) for p, s in columns))
    return _inner(scope, one, other, shape)


def _inner(scope: Scope, one: Laid, other: Laid, shape: Shape) -> Laid | None:
    """Return the sum of the products of parts along the summed axis; None unless the left value is cut alike or one
    row."""
    if not isinstance(other, Concat) or other.axis != len(other.shape) - 2 or len(one.shape) != len(other.shape):
        return None
    last = len(one.shape) - 1
    if isinstance(one, Concat) and one.axis == last and one.cuts == other.cuts:
        pairs = list(zip(one.parts, other.parts, strict=True))
    elif one.shape[-2] == 1:
        tensor, pairs, start = scope.filled(one, last), [], 0
        for part in other.parts:
            end = start + number(part.shape[-2])
            cut = scope.emit.cut(tensor, last, start, end)
            pairs.append((scope.wrap(cut, with_dim(one.shape, last, end - start)), part))
            start = end
    else:
        return None
    total: Laid | None = None
    for left, right in pairs:
        product = multiplied(scope, left, right, shape)
        total = product if total is None else apply(scope, "Add", [total, product], shape)
    scope.credit(Rule.CONCAT)
    return total


HANDLERS: Mapping[str, Handler] = {
    "MatMul": lambda scope, node: multiplied(scope, node.input(0), node.input(1), node.shape),
    "Gemm": gemm,
}
