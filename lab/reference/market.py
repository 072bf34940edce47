"""Generated users, items and events as a dataset, so that the reference model is exported like any other.

A user's history is clicks in the profile window. All other impressions are at one later moment, so that their rows have
that history. Knows no graph.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.inputs import Sizes
from lab.reference.network import ReferenceModel
from msd.contract.rows import RowSide
from msd.contract.schema import Categorical, FeatureSchema, SchemaField, Semantic, Sequence, State
from msd.dataset.config import DatasetConfig
from msd.dataset.load import Dataset
from msd.dataset.order import sort_events
from msd.dataset.split import Part
from msd.ranker.adaptor import Adaptors
from msd.step import fingerprint_of
from msd.student.record import VECTOR_DIM
from msd.student.vectors import LevelVectors, StudentVectors

_NAME = "reference"
_WINDOW_AT, _SHOWN_AT = 1_764_000_000, 1_764_060_000
_SHOWN = (Part.TRAIN, Part.TRAIN, Part.VALID, Part.VALID, Part.TEST)
_MISSING, _UNKNOWN = 0, 1
_FORMAT = 3
_SIDES: tuple[RowSide, ...] = ("user", "item")


@dataclass(frozen=True)
class Population:
    """Numbers of users and items."""

    users: int = 3_000
    items: int = 20_000
    seed: int = 7


@dataclass(frozen=True)
class Market:
    """All sources of a bundle's rows, and the clicks they come from, with one request per user."""

    dataset: Dataset
    schema: FeatureSchema
    vectors: StudentVectors
    adaptors: Adaptors
    clicks: Clicks


def new_market(network: ReferenceModel, population: Population) -> Market:
    """Generate users and items, and their clicks by the network's scores."""
    sizes, catalogue = network.sizes, new_catalogue(network.sizes, population.items, population.seed)
    clicks = new_clicks(network, catalogue, population.users, len(_SHOWN), population.seed)
    users, items = _ids("u", population.users), _ids("i", population.items)
    fields = {"user": clicks.user_fields, "item": catalogue.item_fields}
    dataset = Dataset(
        config=_config(sizes),
        folder=Path(),
        events=sort_events(pl.concat([_window(clicks, users, items), _shown(clicks, users, items)])),
        items=_table("item", items, fields["item"]).with_columns(title=pl.lit(None, pl.String)),
        users=_table("user", users, fields["user"]),
        fingerprint=fingerprint_of(_FORMAT, vars(sizes), vars(population)),
    )
    levels = {
        "users": LevelVectors(users, _widened(clicks.user_vectors)),
        "items": LevelVectors(items, _widened(catalogue.item_vectors)),
    }
    schema = schema_of(sizes)
    return Market(dataset, schema, StudentVectors("", **levels), _as_they_are(schema, sizes), clicks)


def schema_of(sizes: Sizes) -> FeatureSchema:
    """Return the fields of both sides, in the network's order; a table's first two rows: missing, unknown."""
    vocabulary = tuple(f"v{value}" for value in range(2, sizes.vocabulary))
    fields: list[SchemaField] = []
    for side in _SIDES:
        names = (f"{side}_{number}" for number in range(sizes.fields))
        fields += [Categorical(name=name, side=side, vocabulary=vocabulary) for name in names]
        fields.append(Semantic(name=f"{side}_vector", side=side, dim=sizes.vector))
    counts = State(
        name="user_counts", side="user", prior=0.05, strength=20.0, half_life_s=15_552_000.0, age_cap_s=15_552_000.0
    )
    return FeatureSchema(fields=(*fields, Sequence(name="history", length=sizes.history), counts))


class _FirstNumbers(nn.Module):
    """Adaptor that removes the padding of a generated vector to a student's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors[:, : self._width]


def _as_they_are(schema: FeatureSchema, sizes: Sizes) -> Adaptors:
    adaptors = Adaptors(schema, VECTOR_DIM)
    for side in _SIDES:
        adaptors[side] = _FirstNumbers(sizes.vector)
    return adaptors


def _widened(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = np.zeros((len(vectors), VECTOR_DIM), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide


def _ids(letter: str, count: int) -> list[str]:
    return [f"{letter}{number:06d}" for number in range(count)]


def _config(sizes: Sizes) -> DatasetConfig:
    return DatasetConfig.model_validate(
        {
            "format": 1,
            "name": _NAME,
            "semantic_dim": sizes.vector,
            "events": {"file": "events.parquet"},
            "items": {"file": "items.parquet"},
            "users": {"file": "users.parquet"},
            "split": {"column": "part"},
            "history": {"length": sizes.history},
        }
    )


def _table(side: RowSide, ids: list[str], fields: NDArray[np.int32]) -> pl.DataFrame:
    columns = {f"{side}_{number}": _values(column) for number, column in enumerate(fields.T)}
    return pl.DataFrame({f"{side}_id": ids, **columns}).with_columns(text=pl.lit(None, pl.String))


def _values(indices: NDArray[np.int32]) -> pl.Series:
    """Return the values that are encoded as these rows of an embedding table."""
    special: dict[int, str | None] = {_MISSING: None, _UNKNOWN: "of another kind"}
    return pl.Series([special.get(one, f"v{one}") for one in indices.tolist()], dtype=pl.String)


def _window(clicks: Clicks, users: list[str], items: list[str]) -> pl.DataFrame:
    """Return the history's clicks, one after another."""
    rows, places = np.nonzero(clicks.history >= 0)
    return _events(users, items, rows, clicks.history[rows, places], _WINDOW_AT + places).with_columns(
        label=pl.lit(1, pl.Int8), part=pl.lit(Part.WINDOW.name.lower())
    )


def _shown(clicks: Clicks, users: list[str], items: list[str]) -> pl.DataFrame:
    rows, places = np.indices(clicks.candidates.shape).reshape(2, -1)
    parts = [_SHOWN[place].name.lower() for place in places]
    labels = pl.Series(clicks.clicked.ravel().astype(np.int8))
    at = np.full(len(rows), _SHOWN_AT)
    return _events(users, items, rows, clicks.candidates.ravel(), at).with_columns(label=labels, part=pl.Series(parts))


def _events(
    users: list[str], items: list[str], of: NDArray[np.int64], what: NDArray[np.int32], at: NDArray[np.int64]
) -> pl.DataFrame:
    return pl.DataFrame(
        {"user_id": [users[one] for one in of], "item_id": [items[one] for one in what], "at": at.astype(np.int64)}
    )
