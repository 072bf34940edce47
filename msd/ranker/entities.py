"""All users or items of a dataset as encoded columns: one row per ID, and a last row for an unknown ID."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.contract.encode import encode_side
from msd.contract.rows import RowSide
from msd.contract.schema import FeatureSchema
from msd.dataset.load import Dataset


@dataclass(frozen=True)
class Entities:
    """n IDs; categorical [n + 1, C] and numeric [n + 1, 2K]. Row n is that of an unknown ID."""

    side: RowSide
    ids: list[str]
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    place: dict[str, int]

    @property
    def unknown(self) -> int:
        """Row of an unknown ID."""
        return len(self.ids)

    def places(self, ids: pl.Series) -> NDArray[np.int32]:
        """Return the row of each ID [len(ids)]; all must occur in the dataset."""
        return np.fromiter((self.place[one] for one in ids), np.int32, len(ids))


def encode_entities(dataset: Dataset, schema: FeatureSchema, side: RowSide) -> Entities:
    """Encode every ID of the side's table, then every ID that only the events have."""
    name = f"{side}_id"
    table = dataset.users if side == "user" else dataset.items
    known = table[name].to_list()
    only_events = sorted(set(dataset.events[name].unique()) - set(known))
    ids = known + only_events
    pad: list[None] = [None] * (len(only_events) + 1)
    columns = {field: [*table[field].to_list(), *pad] for field in schema.settable[side]}
    columns[name] = [*ids, None]
    categorical, numeric = encode_side(schema, side, columns, len(ids) + 1)
    return Entities(side, ids, categorical, numeric, {one: row for row, one in enumerate(ids)})
