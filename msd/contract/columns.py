"""What a schema's features are called outside of it, and which columns of which tensor each name stands for.

Names are those of tensors, of features, and `history_` and a feature of items. For models that are made elsewhere.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.schema import SIDES, STATE_FEATURES, FeatureSchema, TensorSpec


class Columns(NamedTuple):
    """Some of the last axis of one of the schema's tensors, of which the last `optional` may be left out."""

    tensor: TensorSpec
    chosen: slice
    optional: int = 0

    @property
    def width(self) -> int:
        """How many columns there are."""
        return int(self.chosen.stop - self.chosen.start)

    def of(self, tensors: Tensors) -> NDArray[Any]:
        """[..., width] of the tensor that has them."""
        chosen: NDArray[Any] = np.asarray(tensors[self.tensor.name])[..., self.chosen]
        return chosen


def named_columns(schema: FeatureSchema) -> dict[str, Columns]:
    """All that has a name; where a feature is called as a tensor is, the tensor is meant.

    A number is its value and whether it is missing; the second may be left out.
    """
    specs = {spec.name: spec for spec in schema.tensors}
    known: dict[str, Columns] = {}
    for side in SIDES:
        for indexed in schema.indexed(side):
            place = schema.columns[indexed.name]
            known[indexed.name] = Columns(specs[f"{side}_categorical"], place)
            if side == "item":
                known.setdefault(f"history_{indexed.name}", Columns(specs["history_categorical"], place))
        for numeric in schema.numerics(side):
            known[numeric.name] = Columns(specs[f"{side}_dense"], schema.columns[numeric.name], optional=1)
        if state := schema.state(side):
            start = schema.numeric_width(side)
            known[state.name] = Columns(specs[f"{side}_dense"], slice(start, start + len(STATE_FEATURES)))
    return known | {name: Columns(spec, slice(0, spec.shape[-1])) for name, spec in specs.items()}
