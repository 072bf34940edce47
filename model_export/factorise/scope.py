"""Context of a rule: the new graph, materialisation of values; and the node that it rewrites."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_export.factorise.emit import Array, Emitter, Tensor
from model_export.factorise.gathers import join_lookups
from model_export.factorise.report import Rule
from model_export.factorise.shapes import RuleDoesNotApply, Shape, size_or_none, with_dim
from model_export.factorise.values import Affine, Concat, Laid, Opaque, Term, Value

_MOST_COPIED = 1024  # elements per candidate


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
        if isinstance(value, Opaque):
            return value.tensor
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
        groups: list[list[Affine]] = []
        parts: list[Laid | list[Affine]] = []
        for part in _flat(value):
            if not isinstance(part, Affine) or part.plain is None:
                parts.append(part)
                continue
            last = parts[-1] if parts else None
            if isinstance(last, list) and _alike(last[0], part, value.axis) and _join_pays([*last, part], value):
                last.append(part)
            else:
                groups.append([part])
                parts.append(groups[-1])
        joined = tuple(self._group(part, value) if isinstance(part, list) else part for part in parts)
        return joined[0] if len(joined) == 1 else Concat(value.shape, value.axis, joined)

    def _group(self, parts: Sequence[Affine], whole: Concat) -> Affine:
        if len(parts) == 1:
            return parts[0]
        axis = whole.axis
        length = sum(int(part.shape[axis]) for part in parts)
        tensor = self.concat([self.filled(part, axis) for part in parts], axis)
        return self.wrap(tensor, with_dim(whole.shape, axis, length))

    def ones(self, rows: int, like: Tensor) -> Tensor:
        """Return ones [rows, 1]."""
        return self.emit.constant(np.ones((rows, 1), like.dtype))


def _flat(value: Concat) -> Iterator[Laid]:
    for part in value.parts:
        if isinstance(part, Concat) and part.axis == value.axis:
            yield from _flat(part)
        else:
            yield part


def _join_pays(parts: Sequence[Affine], whole: Concat) -> bool:
    """Return False if a copy of all costs more than further operators, and no product needs the parts side by side."""
    if not parts[0].varies or whole.axis == len(whole.shape) - 1:
        return True
    looked_up = all(part.plain is not None and part.plain.lookup is not None for part in parts)
    sizes = [size_or_none(part.shape[1:]) for part in parts]
    return looked_up or all(sizes) and sum(one or 0 for one in sizes) <= _MOST_COPIED


def _alike(one: Affine, other: Affine, axis: int) -> bool:
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
    if isinstance(value, Affine | Concat):
        return value
    raise RuleDoesNotApply("its input's shape is not known")
