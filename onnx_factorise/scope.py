"""Context of a rule: the new graph, materialisation of values; and the node that it rewrites."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_factorise.emit import Array, Emitter, Tensor
from onnx_factorise.gathers import join_lookups
from onnx_factorise.report import Rule
from onnx_factorise.shapes import RuleDoesNotApply, Shape, number, with_dim
from onnx_factorise.values import Affine, Concat, Laid, Term, Value


@dataclass
class Scope:
    """One run of the pass."""

    emit: Emitter
    credited: list[Rule] = field(default_factory=list)
    """Rules that split the current node."""

    def credit(self, rule: Rule) -> None:
        """Record that the rule was applied."""
        if rule not in self.credited:
            self.credited.append(rule)

    def wrap(self, tensor: Tensor, shape: Shape | None = None) -> Affine:
        """Wrap a tensor as a value, possibly of a longer shape."""
        shape = tensor.shape if shape is None else shape
        tensor = self.emit.aligned(tensor, len(shape))
        return Affine(shape, (Term(tensor),)) if tensor.varies else Affine(shape, (), tensor)

    def real(self, value: Laid) -> Tensor:
        """Return one tensor, whose axes may be 1 where the value's are longer."""
        if value.real is None:
            if isinstance(value, Affine):
                value.real = self._summed(value)
            else:
                joined = self.coalesced(value)
                value.real = self.real(joined) if isinstance(joined, Affine) else self._joined(joined)
        return value.real

    def whole(self, value: Value) -> Tensor:
        """Return one tensor of the value's own shape, as a copied node needs it."""
        if isinstance(value, Tensor):
            return value
        return self.emit.expand(self.real(value), value.shape)

    def filled(self, value: Laid, axis: int) -> Tensor:
        """Return one tensor with the value's length of that axis."""
        return self.emit.filled(self.real(value), axis, value.shape[axis])

    def _joined(self, value: Concat) -> Tensor:
        return self.concat([self.filled(part, value.axis) for part in value.parts], value.axis)

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Concatenate tensors; neighbouring look-ups become one."""
        joined = join_lookups(self.emit, tensors, axis)
        if len(joined) < len(tensors):
            self.credit(Rule.GATHER)
        return self.emit.concat(joined, axis)

    def _summed(self, value: Affine) -> Tensor:
        summands = [
            term.leaf if term.by is None else self.emit.elementwise("Mul", term.leaf, term.by) for term in value.terms
        ]
        result = self.emit.add(*summands, value.base)
        if result is None:
            raise RuleDoesNotApply("an empty sum")
        return result

    def coalesced(self, value: Concat) -> Laid:
        """Join neighbouring parts that are single tensors of one side. No part keeps parts along the same axis."""
        groups: list[list[Laid]] = []
        for part in _flat(value):
            if groups and _alike(groups[-1][0], part, value.axis):
                groups[-1].append(part)
            else:
                groups.append([part])
        joined = tuple(self._group(group, value) for group in groups)
        return joined[0] if len(joined) == 1 else Concat(value.shape, value.axis, joined)

    def _group(self, parts: Sequence[Laid], whole: Concat) -> Laid:
        if len(parts) == 1:
            return parts[0]
        axis = whole.axis
        tensor = self.concat([self.filled(part, axis) for part in parts], axis)
        return self.wrap(tensor, with_dim(whole.shape, axis, sum(number(part.shape[axis]) for part in parts)))


def _flat(value: Concat) -> Iterator[Laid]:
    for part in value.parts:
        if isinstance(part, Concat) and part.axis == value.axis:
            yield from _flat(part)
        else:
            yield part


def _alike(one: Laid, other: Laid, axis: int) -> bool:
    if isinstance(one, Concat) or isinstance(other, Concat):
        return False
    first, second = one.plain, other.plain
    if first is None or second is None or first.varies != second.varies:
        return False
    same = with_dim(first.shape, axis, 1) == with_dim(second.shape, axis, 1)
    return same and all(isinstance(part.shape[axis], int) for part in (one, other))


@dataclass(frozen=True)
class Node:
    """An operator with its inputs as values, and the shapes and dtypes of its outputs."""

    kind: str
    inputs: tuple[Laid | None, ...]
    attributes: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    dtypes: tuple[np.dtype[Any], ...]

    @property
    def shape(self) -> Shape:
        """Shape of the first output."""
        return self.shapes[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the first output."""
        return self.dtypes[0]

    @property
    def given(self) -> tuple[Laid, ...]:
        """Inputs that are not omitted."""
        return tuple(value for value in self.inputs if value is not None)

    def input(self, place: int) -> Laid:
        """Return an input. Raises RuleDoesNotApply if it is omitted."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise RuleDoesNotApply(f"it has no input {place}")
        return value

    def constant(self, place: int) -> Array | None:
        """Return the value of a constant input; None if omitted. Raises RuleDoesNotApply if it is not constant."""
        if place >= len(self.inputs) or self.inputs[place] is None:
            return None
        value = self.inputs[place]
        if isinstance(value, Affine) and not value.varies and value.base is not None and value.base.value is not None:
            return value.base.value
        raise RuleDoesNotApply(f"its input {place} is not a constant")

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute `axis`, counted from the front."""
        return int(self.attributes.get("axis", default)) % rank


Handler = Callable[[Scope, Node], Value | list[Value]]


def laid(value: Value) -> Laid:
    """Return the value. Raises RuleDoesNotApply if rules cannot see its axes."""
    if isinstance(value, Tensor):
        raise RuleDoesNotApply("its input's shape is not known")
    return value
