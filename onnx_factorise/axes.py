"""Operators along one axis other than the items': sums and means, softmax by shares of user and candidate, other
reductions, and normalisation in inference.
"""

from collections.abc import Mapping

import numpy as np

from onnx_factorise.elementwise import apply
from onnx_factorise.emit import Tensor
from onnx_factorise.layout import reshaped
from onnx_factorise.report import Rule
from onnx_factorise.scope import Handler, Node, Scope
from onnx_factorise.shapes import ITEMS, RuleDoesNotApply, has_items, number, size_or_none, with_dim
from onnx_factorise.values import Affine, Concat, Laid, Term


def reduced(scope: Scope, node: Node) -> Laid:
    """Apply ReduceSum or ReduceMean."""
    value = node.input(0)
    rank = len(value.shape)
    axes = node.constant(1)
    if axes is None and node.attributes.get("noop_with_empty_axes"):
        return value
    for axis in sorted({int(axis) % rank for axis in (range(rank) if axes is None else axes.reshape(-1))}):
        length = value.shape[axis]
        value = summed(scope, value, axis)
        if node.kind == "ReduceMean":
            share = scope.emit.constant(np.full((1,), 1 / number(length), node.dtype))
            value = apply(scope, "Mul", [value, scope.wrap(share)], value.shape)
    return value if node.attributes.get("keepdims", 1) else reshaped(scope, value, node.shape)


def summed(scope: Scope, value: Laid, axis: int) -> Laid:
    """Sum along an axis, which stays with length 1. Raises RuleDoesNotApply for the item axis."""
    shape = with_dim(value.shape, axis, 1)
    if has_items((value.shape[axis],)):
        raise RuleDoesNotApply("a sum over the candidates")
    if isinstance(value, Concat):
        value = scope.coalesced(value)
    if isinstance(value, Concat):
        if value.axis != axis:
            return value.map(lambda part: summed(scope, part, axis), shape, value.axis)
        total = summed(scope, value.parts[0], axis)
        for part in value.parts[1:]:
            total = apply(scope, "Add", [total, summed(scope, part, axis)], shape)
        return total
    terms = tuple(_term(scope, term, value, axis) for term in value.terms)
    return Affine(shape, terms, value.base and _sum(scope, value.base, value, axis))


def _sum(scope: Scope, tensor: Tensor, value: Affine, axis: int) -> Tensor:
    if tensor.shape[axis] != 1:
        return scope.emit.reduce("ReduceSum", tensor, axis)
    if value.shape[axis] == 1:
        return tensor
    return scope.emit.elementwise("Mul", tensor, scope.emit.scalar(number(value.shape[axis]), tensor))


def _term(scope: Scope, term: Term, value: Affine, axis: int) -> Term:
    leaf, by, emit = term.leaf, term.by, scope.emit
    if leaf.shape[axis] == 1:
        scale = by or emit.scalar(1.0, leaf, len(leaf.shape))
        return Term(leaf, _sum(scope, scale, value, axis))
    if by is None or by.shape[axis] == 1:
        return Term(_sum(scope, leaf, value, axis), by)
    if _weights(leaf, by, axis):
        # Σ_t weight_nt row_td: [N, T] @ [T, D].
        scope.credit(Rule.WEIGHTED_SUM)
        rows = emit.reshape(leaf, leaf.shape[:-1])
        matrix = emit.reshape(by, by.shape[-2:])
        return Term(emit.product(rows, matrix, (*leaf.shape[:-2], 1, matrix.shape[1])))
    return Term(emit.reduce("ReduceSum", emit.elementwise("Mul", leaf, by), axis))


def _weights(leaf: Tensor, by: Tensor, axis: int) -> bool:
    """Return whether the leaf [N, …, T, 1] weights shared rows [1, …, T, D], and T is summed."""
    if axis != len(leaf.shape) - 2 or leaf.shape[-1] != 1 or leaf.shape[0] != ITEMS:
        return False
    return size_or_none(by.shape[:-2]) == 1 and size_or_none(leaf.shape[1:]) is not None


_ALONG = ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")
_REDUCING = ("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSumExp", "ReduceSumSquare")


def along(scope: Scope, node: Node) -> Laid:
    """Apply an operator that keeps its axis."""
    value = node.input(0)
    return _along(scope, node, value, node.axis(-1, len(value.shape)))


def reducing(scope: Scope, node: Node) -> Laid:
    """Apply a reduction of one axis that is not a sum."""
    value, axes = node.input(0), node.constant(1)
    if axes is None or axes.size != 1:
        raise RuleDoesNotApply("a reduction of several axes")
    made = _along(scope, node, value, int(axes.reshape(-1)[0]) % len(value.shape))
    return made if node.attributes.get("keepdims", 1) else reshaped(scope, made, node.shape)


def _along(scope: Scope, node: Node, value: Laid, axis: int) -> Laid:
    if has_items((value.shape[axis],)):
        raise RuleDoesNotApply(f"a {node.kind} over the candidates")
    if isinstance(value, Concat):
        value = scope.coalesced(value)
    if isinstance(value, Concat) and value.axis != axis:
        shape = with_dim(value.shape, axis, 1) if node.kind in _REDUCING else value.shape
        return value.map(lambda part: _along(scope, node, part, axis), shape, value.axis)
    if isinstance(value, Concat) and node.kind == "Softmax":
        shares = _by_shares(scope, value)
        if shares is not None:
            return shares
    tensor = scope.emit.filled(scope.emit.aligned(scope.real(value), len(value.shape)), axis, value.shape[axis])
    if node.kind in _REDUCING:
        return scope.wrap(scope.emit.reduce(node.kind, tensor, axis), with_dim(value.shape, axis, 1))
    weights = [scope.real(one) for one in node.given[1:]]
    return scope.wrap(scope.emit.op(node.kind, [tensor, *weights], tensor.shape, **node.attributes), value.shape)


def _by_shares(scope: Scope, value: Concat) -> Concat | None:
    """Return softmax(u ‖ m) as softmax(u) − w softmax(u) ‖ w softmax(m), w = sigmoid(logsumexp(m) − logsumexp(u))."""
    if len(value.parts) != 2 or value.parts[0].varies == value.parts[1].varies:
        return None
    shared, own = sorted(value.parts, key=lambda part: part.varies)
    emit, axis = scope.emit, value.axis
    user, mixed = (_finite(scope, scope.filled(part, axis), axis) for part in (shared, own))
    share = emit.elementwise("Sub", _log_sum(scope, mixed, axis), _log_sum(scope, user, axis))
    weight, user_weights = emit.elementwise("Sigmoid", share), _softmax(scope, user, axis)
    scope.credit(Rule.SOFTMAX)
    user_part = Affine(shared.shape, (Term(weight, emit.elementwise("Neg", user_weights)),), user_weights)
    one = mixed.shape[axis] == 1
    scaled = weight if one else emit.elementwise("Mul", weight, _softmax(scope, mixed, axis))
    own_part = scope.wrap(scaled, own.shape)
    parts = (user_part, own_part) if shared is value.parts[0] else (own_part, user_part)
    return Concat(value.shape, axis, parts)


def _softmax(scope: Scope, tensor: Tensor, axis: int) -> Tensor:
    return scope.emit.op("Softmax", [tensor], tensor.shape, axis=axis)


def _finite(scope: Scope, tensor: Tensor, axis: int) -> Tensor:
    """Replace masks of −∞ by a number: a part of only −∞ would have neither a softmax nor a share."""
    if tensor.varies and tensor.shape[axis] == 1:
        return tensor  # its share is 0 then
    lowest = float(np.finfo(tensor.dtype).min) / 4
    return scope.emit.op("Clip", [tensor, scope.emit.scalar(lowest, tensor)], tensor.shape)


def _log_sum(scope: Scope, tensor: Tensor, axis: int) -> Tensor:
    return tensor if tensor.shape[axis] == 1 else scope.emit.reduce("ReduceLogSumExp", tensor, axis)


def layer_norm(scope: Scope, node: Node) -> Laid:
    """Apply LayerNormalization of the last axis."""
    value = node.input(0)
    last = len(value.shape) - 1
    if node.axis(-1, last + 1) != last or len(node.shapes) > 1:
        raise RuleDoesNotApply("a LayerNormalization of several axes or outputs")
    return _along(scope, node, value, last)


def batch_norm(scope: Scope, node: Node) -> Laid:
    """Apply BatchNormalization with fixed statistics: a scale and a shift per column, the second axis."""
    scale, shift, mean, variance = (node.constant(place) for place in (1, 2, 3, 4))
    if scale is None or shift is None or mean is None or variance is None or node.attributes.get("training_mode"):
        raise RuleDoesNotApply("a BatchNormalization in training")
    rank = len(node.shape)
    columns = (1, number(node.shape[1]), *(1,) * (rank - 2)) if rank > 1 else (1,)
    factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    tensors = [scope.emit.constant(a.astype(node.dtype).reshape(columns)) for a in (factor, shift - mean * factor)]
    by, plus = (scope.wrap(tensor) for tensor in tensors)
    return apply(scope, "Add", [apply(scope, "Mul", [node.input(0), by], node.shape), plus], node.shape)


HANDLERS: Mapping[str, Handler] = {
    **dict.fromkeys(("ReduceSum", "ReduceMean"), reduced),
    **dict.fromkeys(_ALONG, along),
    **dict.fromkeys(_REDUCING, reducing),
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm,
}
