"""LayerNorm and BatchNorm in inference."""

from collections.abc import Mapping

import numpy as np

from model_export.factorise.elementwise import apply
from model_export.factorise.node import Handler, Node
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import RuleDoesNotApply, number
from model_export.factorise.values import Concat, Laid


def layer_norm(scope: Scope, node: Node) -> Laid:
    """Apply LayerNormalization of the last axis."""
    value = node.input(0)
    last = len(value.shape) - 1
    if node.axis(-1, last + 1) != last or len(node.shapes) > 1:
        raise RuleDoesNotApply("a LayerNormalization of several axes or outputs")
    return _normed(scope, node, value)


def _normed(scope: Scope, node: Node, value: Laid) -> Laid:
    last = len(value.shape) - 1
    if isinstance(value, Concat):
        value = scope.coalesced(value)
    if isinstance(value, Concat) and value.axis != last:
        return value.map(lambda part: _normed(scope, node, part), value.shape, value.axis)
    tensor = scope.emit.filled(scope.emit.aligned(scope.real(value), last + 1), last, value.shape[last])
    weights = [scope.real(one) for one in node.given[1:]]
    return scope.wrap(scope.emit.op(node.kind, [tensor, *weights], tensor.shape, **node.attributes), value.shape)


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


HANDLERS: Mapping[str, Handler] = {"LayerNormalization": layer_norm, "BatchNormalization": batch_norm}
