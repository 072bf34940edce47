"""Symbolic values: sums and products, concatenated parts.

A value has the shape of the plain graph's tensor. It becomes a tensor only when an operator needs one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx_factorise.emit import Tensor
from onnx_factorise.shapes import Shape


@dataclass(frozen=True, eq=False)
class Term:
    """`leaf` · `by`: the leaf has the item axis, its scale does not. A scale of None is 1."""

    leaf: Tensor
    by: Tensor | None = None


@dataclass(eq=False)
class Affine:
    """Σ terms + base, with a base that all candidates share. All have as many axes as `shape`, some of them 1."""

    shape: Shape
    terms: tuple[Term, ...] = ()
    base: Tensor | None = None
    real: Tensor | None = field(default=None, repr=False)

    @property
    def varies(self) -> bool:
        """Whether it has the item axis."""
        return bool(self.terms)

    @property
    def plain(self) -> Tensor | None:
        """The single tensor that it equals, if any."""
        if not self.terms:
            return self.base
        first = self.terms[0]
        return first.leaf if len(self.terms) == 1 and self.base is None and first.by is None else None

    def map(self, change: Callable[[Tensor], Tensor], shape: Shape) -> "Affine":
        """Change the layout of each tensor in the same way."""
        terms = tuple(Term(change(term.leaf), term.by and change(term.by)) for term in self.terms)
        return Affine(shape, terms, self.base and change(self.base))


@dataclass(eq=False)
class Concat:
    """Parts side by side along an axis, counted from the front. In other axes the parts' shapes are the whole's."""

    shape: Shape
    axis: int
    parts: "tuple[Affine | Concat, ...]"
    real: Tensor | None = field(default=None, repr=False)

    @property
    def varies(self) -> bool:
        """Whether it has the item axis."""
        return any(part.varies for part in self.parts)

    @property
    def cuts(self) -> Shape:
        """The parts' lengths."""
        return tuple(part.shape[self.axis] for part in self.parts)

    def map(self, change: "Callable[[Affine | Concat], Affine | Concat]", shape: Shape, axis: int) -> "Concat":
        """Change each part in the same way; the parts' axis is now `axis` of `shape`."""
        return Concat(shape, axis, tuple(change(part) for part in self.parts))


Laid = Affine | Concat


Value = Laid | Tensor
"""A tensor is one whose shape depends on its inputs' contents."""
