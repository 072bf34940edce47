"""A dataset's features in a folder, written once and read by every process of a training: each tensor a file that is
mapped into memory.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd.contract.files import write_text_atomic
from msd.contract.rows import ROW_SIDES, RowSide
from msd.contract.schema import FeatureSchema
from msd.dataset.load import Dataset
from msd.ranker.arrays import Arrays
from msd.ranker.features import Features, SideFeatures, build_features
from msd.ranker.timeline import Entities
from msd.student.vectors import StudentVectors

_SCHEMA = "schema.json"


def write_features(folder: Path, dataset: Dataset, schema: FeatureSchema, vectors: StudentVectors) -> None:
    """Build the features in the folder, which is emptied first. They survive a power failure."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    features = build_features(dataset, schema, vectors, arrays=Arrays(folder))
    for name, array in _arrays_of(features):
        if not (path := folder / f"{name}.npy").exists():
            np.save(path, array)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_text_atomic(folder / _SCHEMA, schema.model_dump_json())


def read_features(folder: Path) -> Features:
    """Map the features that `write_features` wrote; their entities have no IDs."""
    # Copied on write, because torch has no tensors that are only read.
    found = {path.stem: np.load(path, mmap_mode="c") for path in folder.glob("*.npy")}
    schema = FeatureSchema.model_validate_json((folder / _SCHEMA).read_text("utf-8"))
    values: dict[str, Any] = {"schema": schema, "parts": np.asarray(found.pop("parts")), "arrays": Arrays(folder)}
    values |= {side: _side(side, found) for side in ROW_SIDES}
    values |= {name: torch.from_numpy(array) for name, array in found.items() if "." not in name}
    return Features(**values)


def is_whole(folder: Path) -> bool:
    """Return whether the features can be read: no file is missing or cut short."""
    try:
        read_features(folder)
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return False
    return True


def _arrays_of(features: Features) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "parts", features.parts
    for prefix, held in (("", features), ("user.", features.user), ("item.", features.item)):
        tensors = ((field.name, getattr(held, field.name)) for field in fields(held))
        yield from ((prefix + name, value.numpy()) for name, value in tensors if isinstance(value, Tensor))
    for side in (features.user, features.item):
        yield f"{side.entities.side}.numeric", side.entities.numeric


def _side(side: RowSide, found: dict[str, NDArray[Any]]) -> SideFeatures:
    own = {name.removeprefix(f"{side}."): array for name, array in found.items() if name.startswith(f"{side}.")}
    entities = Entities(side, [], own["categorical"], own.pop("numeric"), {})
    return SideFeatures(entities=entities, **{name: torch.from_numpy(array) for name, array in own.items()})
