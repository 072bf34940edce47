"""Names of a schema's features, for models from other libraries, and their columns in the tensors.

A name is that of a tensor, of a feature, or `history_` and an item feature.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors
from msd.contract.schema import SIDES, STATE_FEATURES, FeatureSchema, TensorSpec


class Columns(NamedTuple):
    """A slice of the last axis of one of the schema's tensors; the last `optional` columns may be omitted."""

    tensor: TensorSpec
    chosen: slice
    optional: int = 0

    @property
    def width(self) -> int:
        """The number of columns."""
        return int(self.chosen.stop - self.chosen.start)

    def of(self, tensors: Tensors) -> NDArray[Any]:
        """Return [..., width] of its tensor."""
        chosen: NDArray[Any] = np.asarray(tensors[self.tensor.name])[..., self.chosen]
        return chosen


def named_columns(schema: FeatureSchema) -> dict[str, Columns]:
    """Return all names; if a feature and a tensor share one, it means the tensor.

    A number has its value and a missing flag; the flag may be omitted.
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
