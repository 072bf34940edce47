"""Tensors whose candidates and history were merged into one axis, [N·T, …], treated as the original [N, T, …].

Exporters write a linear layer on three axes in this way. Operators on the last axes do not depend on the first ones.
"""

from dataclasses import replace

from model_export.factorise.layout import reshaped
from model_export.factorise.node import Handler, Node
from model_export.factorise.rule import Rule
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import ITEMS, RuleDoesNotApply, merged
from model_export.factorise.values import Affine, Concat, Flattened, Laid, Value

_KEEPING = {"MatMul", "Gemm", "Concat", "Reshape", "Squeeze", "Unsqueeze", "Softmax", "LayerNormalization", "Slice"}


def flattened(scope: Scope, node: Node) -> Flattened | None:
    """Return a reshape that merges the item axis with those after it; None for any other node."""
    value, shape = node.input(0), node.shape
    if node.kind != "Reshape" or not shape or not scope.on(Rule.FLATTEN) or value.shape[:1] != (ITEMS,):
        return None
    for axes in range(2, len(value.shape) + 1):
        if value.shape[axes:] == shape[1:] and all(isinstance(dim, int) for dim in value.shape[1:axes]):
            if merged(value.shape[:axes]) == shape[0] != ITEMS:
                scope.credit(Rule.FLATTEN)
                return Flattened(shape, value, axes)
    return None


def on_flattened(
    scope: Scope, node: Node, inputs: tuple[Value | None, ...], handler: Handler, elementwise: bool
) -> Value:
    """Apply the operator to the axes before merging. Raises RuleDoesNotApply if it depends on the merged axis."""
    first = next(value for value in inputs if isinstance(value, Flattened))
    axes, before = first.merged, first.inner.shape[: first.merged]
    for value in inputs:
        if isinstance(value, Flattened) and (value.merged != axes or value.inner.shape[:axes] != before):
            raise RuleDoesNotApply("axes that were merged differently")
    if node.kind == "Reshape" and node.shape[:axes] == before:
        return reshaped(scope, first.inner, node.shape)
    if not (elementwise or node.kind in _KEEPING) or node.shape[:1] != first.shape[:1]:
        raise RuleDoesNotApply("an operator on merged axes")
    shape = (*before, *node.shape[1:])
    opened = tuple(_opened(scope, value, node, place, axes, elementwise) for place, value in enumerate(inputs))
    made = handler(scope, replace(node, inputs=opened, shapes=(shape,), attributes=_moved(node, axes)))
    if not isinstance(made, Affine | Concat):
        raise RuleDoesNotApply("several outputs on merged axes")
    return Flattened(node.shape, made, axes)


def _opened(scope: Scope, value: Value | None, node: Node, place: int, axes: int, elementwise: bool) -> Laid | None:
    if isinstance(value, Flattened):
        if place and node.kind in ("MatMul", "Gemm"):
            raise RuleDoesNotApply("a matrix of merged axes")
        return value.inner
    if value is None or not isinstance(value, Affine | Concat):
        return None
    rank = len(node.shape)
    if place == 0 or (value.varies and node.kind != "Concat"):
        raise RuleDoesNotApply("merged axes beside others")
    if node.kind == "Concat":
        raise RuleDoesNotApply("a Concat with merged axes")
    if elementwise and len(value.shape) >= rank:
        if value.shape[-rank] != 1:
            raise RuleDoesNotApply("merged axes beside others")
        return reshaped(scope, value, value.shape[len(value.shape) - rank + 1 :])
    return value


def _moved(node: Node, axes: int) -> dict[str, object]:
    """Return the attributes, `axis` counted in the opened shape. Raises RuleDoesNotApply for the merged axis."""
    moved = dict(node.attributes)
    axis = moved.get("axis")
    if isinstance(axis, int) and axis >= 0:
        if axis == 0:
            raise RuleDoesNotApply("an operator along merged axes")
        moved["axis"] = axis + axes - 1
    return moved
