"""Operators along one axis: softmax over a user's and a candidate's parts by shares; the others on real tensors."""

from collections.abc import Mapping

import numpy as np

from model_export.factorise.emit import Tensor
from model_export.factorise.layout import reshaped
from model_export.factorise.node import Handler, Node
from model_export.factorise.rule import Rule
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import RuleDoesNotApply, has_items, with_dim
from model_export.factorise.values import Affine, Concat, Laid, Term

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
        keeps = node.kind in _ALONG
        shape = value.shape if keeps else with_dim(value.shape, axis, 1)
        return value.map(lambda part: _along(scope, node, part, axis), shape, value.axis)
    if isinstance(value, Concat) and node.kind == "Softmax" and scope.on(Rule.SOFTMAX):
        shares = _by_shares(scope, value)
        if shares is not None:
            return shares
    tensor = scope.emit.filled(scope.emit.aligned(scope.real(value), len(value.shape)), axis, value.shape[axis])
    if node.kind in _REDUCING:
        return scope.wrap(scope.emit.reduce(node.kind, tensor, axis), with_dim(value.shape, axis, 1))
    return scope.wrap(scope.emit.op(node.kind, [tensor], tensor.shape, **node.attributes), value.shape)


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


HANDLERS: Mapping[str, Handler] = {**dict.fromkeys(_ALONG, along), **dict.fromkeys(_REDUCING, reducing)}
