"""What a rule works with: the new graph, the rules that are on, and making values real."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_export.factorise.emit import Emitter, Tensor
from model_export.factorise.gathers import join_lookups
from model_export.factorise.rule import Rule
from model_export.factorise.shapes import ITEMS, Shape, Unsplit, broadcast, size, size_or_none, with_dim
from model_export.factorise.values import Affine, Concat, Flattened, Laid, Opaque, Term, Value


@dataclass
class Scope:
    """One run of the pass."""

    emit: Emitter
    rules: frozenset[Rule]
    credited: list[Rule] = field(default_factory=list)
    """The rules that split the node at hand."""

    def on(self, rule: Rule) -> bool:
        """Whether the rule is on."""
        return rule in self.rules

    def credit(self, rule: Rule) -> None:
        """Notes that the rule did something."""
        if rule not in self.credited:
            self.credited.append(rule)

    def wrap(self, tensor: Tensor, shape: Shape | None = None) -> Affine:
        """A tensor as a value, of a longer shape maybe."""
        shape = tensor.shape if shape is None else shape
        tensor = self.emit.aligned(tensor, len(shape))
        return Affine(shape, (Term(tensor),)) if tensor.varies else Affine(shape, (), tensor)

    def real(self, value: Laid) -> Tensor:
        """One tensor, whose axes may be 1 where the value's are longer."""
        if value.real is None:
            if isinstance(value, Affine):
                value.real = self._summed(value)
            else:
                joined = self.coalesced(value)
                value.real = self.real(joined) if isinstance(joined, Affine) else self._joined(joined)
        return value.real

    def whole(self, value: Value) -> Tensor:
        """One tensor of the value's own shape, as a copied node needs it."""
        if isinstance(value, Opaque):
            return value.tensor
        if isinstance(value, Flattened):
            return self.emit.reshape(self.whole(value.inner), value.shape)
        return self.emit.expand(self.real(value), value.shape)

    def filled(self, value: Laid, axis: int) -> Tensor:
        """One tensor that has the value's length of that axis."""
        return self.emit.filled(self.real(value), axis, value.shape[axis])

    def _joined(self, value: Concat) -> Tensor:
        return self.concat([self.filled(part, value.axis) for part in value.parts], value.axis)

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Side by side; neighbours that are look-ups become one."""
        if self.on(Rule.GATHER):
            joined = join_lookups(self.emit, tensors, axis)
            if len(joined) < len(tensors):
                self.credit(Rule.GATHER)
            tensors = joined
        return self.emit.concat(tensors, axis)

    def _summed(self, value: Affine) -> Tensor:
        base, total = value.base, None
        for term in value.terms:
            leaf = term.leaf
            if term.by is None and base is not None and self.on(Rule.BIAS):
                joined = self._gemm(leaf, base)
                if joined is not None:
                    leaf, base = joined, None
            total = self.emit.add(total, leaf if term.by is None else self.emit.elementwise("Mul", leaf, term.by))
        result = self.emit.add(total, base)
        if result is None:
            raise Unsplit("an empty sum")
        return result

    def _gemm(self, leaf: Tensor, base: Tensor) -> Tensor | None:
        """X @ W + base as one node, where the base is the same for all rows of X."""
        if leaf.product is None or leaf.shape[0] != ITEMS or base.shape[0] != 1 or not leaf.is_float:
            return None
        rows, matrix = leaf.product
        width, inner, rest = matrix.shape[1], size_or_none(base.shape), size_or_none(leaf.shape[1:])
        if inner is None:
            return None
        if broadcast(base.shape, leaf.shape) != leaf.shape:
            return None  # the leaf is broadcast to the base
        if rest == width:
            bias = self.emit.expand(base, (1, *leaf.shape[1:]))
        elif inner in (1, width) and base.shape[-1] in (1, width):
            bias = base
        else:
            return None
        bias = self.emit.reshape(bias, (1, size(bias.shape)))
        self.credit(Rule.BIAS)
        made = self.emit.op("Gemm", [rows, matrix, bias], (rows.shape[0], width))
        return self.emit.reshape(made, leaf.shape)

    def coalesced(self, value: Concat) -> Laid:
        """With neighbours that are ready tensors of one side joined; the parts have no parts along the same axis."""
        groups: list[list[Affine]] = []
        parts: list[Laid | list[Affine]] = []
        for part in _flat(value):
            tensor = part.plain if isinstance(part, Affine) else None
            if tensor is None or not isinstance(part, Affine):
                parts.append(part)
                continue
            last = parts[-1] if parts else None
            if isinstance(last, list) and _alike(last[0], part, value.axis):
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
        """[rows, 1] of ones."""
        return self.emit.constant(np.ones((rows, 1), like.dtype))


def _flat(value: Concat) -> Iterator[Laid]:
    for part in value.parts:
        if isinstance(part, Concat) and part.axis == value.axis:
            yield from _flat(part)
        else:
            yield part


def _alike(one: Affine, other: Affine, axis: int) -> bool:
    first, second = one.plain, other.plain
    if first is None or second is None or first.varies != second.varies:
        return False
    same = with_dim(first.shape, axis, 1) == with_dim(second.shape, axis, 1)
    return same and all(isinstance(part.shape[axis], int) for part in (one, other))
