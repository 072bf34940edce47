"""Sums and means along other axes than the item axis: of terms, of parts, and weighted sums as products."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from model_export.factorise.elementwise import apply
from model_export.factorise.emit import Tensor
from model_export.factorise.layout import reshaped
from model_export.factorise.linear import linear
from model_export.factorise.node import Handler, Node
from model_export.factorise.rule import Rule
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import ITEMS, RuleDoesNotApply, has_items, number, size_or_none, with_dim
from model_export.factorise.values import Affine, Concat, Laid, Term


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
            like = scope.emit.constant(_one_over(number(length), node))
            value = apply(scope, "Mul", [value, scope.wrap(like)], value.shape)
    return value if node.attributes.get("keepdims", 1) else reshaped(scope, value, node.shape)


def _one_over(length: int, node: Node) -> "np.ndarray[Any, np.dtype[Any]]":
    return np.full((1,), 1 / length, node.dtype)


def summed(scope: Scope, value: Laid, axis: int) -> Laid:
    """Sum along an axis, which stays with length 1. Raises RuleDoesNotApply for the item axis."""
    shape = with_dim(value.shape, axis, 1)
    if has_items((value.shape[axis],)):
        raise RuleDoesNotApply("a sum over the candidates")
    if isinstance(value, Concat):
        value = scope.coalesced(value)
    last = len(shape) - 1
    if isinstance(value, Concat):
        whole = value
        if whole.axis != axis:
            return whole.map(lambda part: summed(scope, part, axis), shape, whole.axis)
        if axis == last and all(isinstance(part, Affine) for part in whole.parts):
            return linear(scope, whole, scope.ones(number(whole.shape[-1]), scope.real(whole.parts[0])))
        total = summed(scope, whole.parts[0], axis)
        for part in whole.parts[1:]:
            total = apply(scope, "Add", [total, summed(scope, part, axis)], shape)
        return total
    if axis == last and scope.on(Rule.WEIGHTED_SUM) and any(_differs(term.by, axis) for term in value.terms):
        scope.credit(Rule.WEIGHTED_SUM)
        return linear(scope, value, scope.ones(number(value.shape[-1]), value.terms[0].leaf))
    terms = tuple(_term(scope, term, value, axis) for term in value.terms)
    return Affine(shape, terms, value.base and _sum(scope, value.base, value, axis))


def _differs(by: Tensor | None, axis: int) -> bool:
    """Return whether request values scale the positions along the axis. Constant scales, as in a calibration curve,
    share no work, and as a product they would be rounded to half precision."""
    return by is not None and by.value is None and by.shape[axis] != 1


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
    if scope.on(Rule.WEIGHTED_SUM) and _weights(leaf, by, axis):
        # Σ_t weight_nt row_td: [N, T] @ [T, D].
        scope.credit(Rule.WEIGHTED_SUM)
        rows = emit.reshape(leaf, leaf.shape[:-1])
        matrix = emit.reshape(by, by.shape[-2:])
        return Term(emit.product(rows, matrix, (*leaf.shape[:-2], 1, matrix.shape[1])))
    if scope.on(Rule.WEIGHTED_SUM) and _masks(leaf, by, axis):
        # Σ_t weight_t leaf_ntd: [1, T] @ [N, T, D].
        scope.credit(Rule.WEIGHTED_SUM)
        return Term(emit.matmul(emit.transpose(by, (*range(axis), axis + 1, axis)), leaf))
    return Term(emit.reduce("ReduceSum", emit.elementwise("Mul", leaf, by), axis))


def _weights(leaf: Tensor, by: Tensor, axis: int) -> bool:
    """Return whether the leaf [N, …, T, 1] weights shared rows [1, …, T, D], and T is summed."""
    if axis != len(leaf.shape) - 2 or leaf.shape[-1] != 1 or leaf.shape[0] != ITEMS:
        return False
    return size_or_none(by.shape[:-2]) == 1 and size_or_none(leaf.shape[1:]) is not None


def _masks(leaf: Tensor, by: Tensor, axis: int) -> bool:
    """Return whether shared weights [1, …, T, 1] weight the leaf's own rows [N, …, T, D], and T is summed."""
    return axis == len(leaf.shape) - 2 and by.shape[-1] == 1 and leaf.shape[-1] != 1


HANDLERS: Mapping[str, Handler] = {"ReduceSum": reduced, "ReduceMean": reduced}
