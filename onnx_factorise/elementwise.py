"""Elementwise operators, applied part by part; sums and products with the user's side stay symbolic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_factorise.emit import Tensor
from onnx_factorise.layout import sliced
from onnx_factorise.report import Rule
from onnx_factorise.scope import Handler, Node, Scope
from onnx_factorise.shapes import RuleDoesNotApply, Shape, broadcast, number, with_dim
from onnx_factorise.values import Affine, Concat, Laid, Term

_ONE = "Relu Sigmoid Tanh Exp Log Sqrt Abs Erf Cast Not Neg LeakyRelu Elu Selu Celu Softplus Softsign HardSigmoid Gelu "
_ONE += "Reciprocal Clip Floor Ceil Round Sign IsNaN IsInf Mish HardSwish Swish Sin Cos ThresholdedRelu"
_MORE = "Add Sub Mul Div Pow Less Greater LessOrEqual GreaterOrEqual Equal And Or Xor Where Max Min PRelu"
_MOST_TERMS = 8


def elementwise(scope: Scope, node: Node) -> Laid:
    """Apply an elementwise operator."""
    values = node.given
    if None in node.inputs[: len(values)]:
        raise RuleDoesNotApply("an omitted input before another")
    if not any(value.varies for value in values):
        return _real(scope, node, values)
    values = tuple(scope.coalesced(value) if isinstance(value, Concat) else value for value in values)
    node = replace(node, inputs=values)
    return _by_parts(scope, node) or _arithmetic(scope, node) or _real(scope, node, values)


def apply(scope: Scope, kind: str, values: Sequence[Laid], shape: Shape) -> Laid:
    """Apply Add, Sub, Mul or Div to floats, for other rules."""
    return elementwise(scope, Node(kind, tuple(values), {}, (shape,), (_dtype(values[0]),)))


def _dtype(value: Laid) -> "np.dtype[np.generic]":
    while isinstance(value, Concat):
        value = value.parts[0]
    tensor = value.terms[0].leaf if value.terms else value.base
    if tensor is None:
        raise RuleDoesNotApply("an empty sum")
    return tensor.dtype


def _real(scope: Scope, node: Node, values: Sequence[Laid]) -> Affine:
    tensors = [scope.real(value) for value in values]
    if node.kind == "PRelu":  # it broadcasts only the slope
        tensors[0] = scope.emit.expand(tensors[0], broadcast(*(tensor.shape for tensor in tensors)))
    return scope.wrap(scope.emit.elementwise(node.kind, *tensors, dtype=node.dtype, **node.attributes), node.shape)


def _by_parts(scope: Scope, node: Node) -> Laid | None:
    values = node.given
    guide = next((value for value in values if isinstance(value, Concat)), None)
    if guide is None:
        return None
    axis = guide.axis - len(guide.shape)
    at = len(node.shape) + axis
    if guide.shape[axis] != node.shape[at]:
        return None
    if not all(_follows(value, axis, guide) for value in values):
        return None
    parts = []
    for place, length in enumerate(guide.cuts):
        shape = with_dim(node.shape, at, length)
        chosen = tuple(_part(scope, value, guide, place) for value in values)
        parts.append(elementwise(scope, Node(node.kind, chosen, node.attributes, (shape,), node.dtypes)))
    scope.credit(Rule.CONCAT)
    return Concat(node.shape, at, tuple(parts))


def _is_cut_as(value: Laid, guide: Concat) -> bool:
    axis = guide.axis - len(guide.shape)
    return isinstance(value, Concat) and value.axis - len(value.shape) == axis and value.cuts == guide.cuts


def _follows(value: Laid, axis: int, guide: Concat) -> bool:
    """Return whether a value has the guide's parts, is the same for all of them, or can be cut at no cost."""
    if len(value.shape) < -axis or value.shape[axis] == 1 or _is_cut_as(value, guide):
        return True
    return not value.varies and all(isinstance(length, int) for length in guide.cuts)


def _part(scope: Scope, value: Laid, guide: Concat, place: int) -> Laid:
    axis = guide.axis - len(guide.shape)
    if len(value.shape) < -axis or value.shape[axis] == 1:
        return value
    if isinstance(value, Concat) and _is_cut_as(value, guide):
        return value.parts[place]
    start = sum(number(length) for length in guide.cuts[:place])
    return sliced(scope, value, len(value.shape) + axis, start, start + number(guide.cuts[place]))


def _arithmetic(scope: Scope, node: Node) -> Affine | None:
    values = [value for value in node.given if isinstance(value, Affine)]
    if node.kind not in _ARITHMETIC or node.dtype.kind != "f" or len(values) != 2:
        return None
    rank = len(node.shape)
    return _ARITHMETIC[node.kind](scope, *(v.map(lambda t: scope.emit.aligned(t, rank), node.shape) for v in values))


def _add(scope: Scope, one: Affine, other: Affine) -> Affine | None:
    terms = list(one.terms)
    for term in other.terms:
        merge(scope, terms, term)
    if len(terms) > _MOST_TERMS:
        return None
    scope.credit(Rule.AFFINE)
    return Affine(one.shape, tuple(terms), scope.emit.add(one.base, other.base))


def merge(scope: Scope, terms: list[Term], term: Term) -> None:
    """Add a term: to the term of its leaf, or as a tensor if neither is scaled by a user's tensor."""
    for place, held in enumerate(terms):
        if held.leaf is term.leaf:
            one = scope.emit.scalar(1.0, term.leaf, len(term.leaf.shape))
            factors = [held.by or one, term.by or one]
            terms[place] = Term(held.leaf, scope.emit.elementwise("Add", *factors))
            return
        if held.by is None and term.by is None and held.leaf.shape == term.leaf.shape:
            terms[place] = Term(scope.emit.elementwise("Add", held.leaf, term.leaf))
            return
    terms.append(term)


def _sub(scope: Scope, one: Affine, other: Affine) -> Affine | None:
    first, second = one.plain, other.plain
    if first is not None and second is not None and first.varies and second.varies:
        return None  # both would be materialised needlessly
    tensor = other.base if not other.terms else other.terms[0].leaf
    if tensor is None:
        return None
    return _add(scope, one, scaled(scope, other, scope.emit.scalar(-1.0, tensor, len(other.shape))))


def _mul(scope: Scope, one: Affine, other: Affine) -> Affine | None:
    if one.varies and other.varies:
        return None
    varying, by = (one, other.base) if one.varies else (other, one.base)
    return None if by is None else scaled(scope, varying, by)


def _div(scope: Scope, one: Affine, other: Affine) -> Affine | None:
    if other.varies or other.base is None:
        return None
    one_over = scope.emit.elementwise("Div", scope.emit.scalar(1.0, other.base, len(other.shape)), other.base)
    return scaled(scope, one, one_over)


def scaled(scope: Scope, value: Affine, by: Tensor) -> Affine:
    """Multiply each term and the base by a tensor that is the same for all candidates."""
    multiply = scope.emit.elementwise
    terms = tuple(Term(term.leaf, by if term.by is None else multiply("Mul", term.by, by)) for term in value.terms)
    scope.credit(Rule.AFFINE)
    return Affine(value.shape, terms, value.base and multiply("Mul", value.base, by))


_ARITHMETIC: Mapping[str, Callable[[Scope, Affine, Affine], Affine | None]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
}
HANDLERS: Mapping[str, Handler] = dict.fromkeys((*_ONE.split(), *_MORE.split()), elementwise)
