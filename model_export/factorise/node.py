"""One node of the plain graph, as rules see it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_export.factorise.emit import Array
from model_export.factorise.scope import Scope
from model_export.factorise.shapes import RuleDoesNotApply, Shape
from model_export.factorise.values import Affine, Concat, Laid, Value


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
    raise RuleDoesNotApply("its input's axes are merged" if value.varies else "its input's shape is not known")
