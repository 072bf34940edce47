"""Folder of a dataset's tensors, to train a model elsewhere: schema, adaptors, and all rows in files by part.

The fitted schema and adaptors are stored so that a bundle of that model serves the same values.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.contract.schema import FeatureSchema
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.ranker.adaptor import Adaptors
from msd.ranker.arrays import Arrays
from msd.ranker.batch import event_tensors
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.step import read_record
from msd.student.vectors import StudentVectors

FORMAT = 2
RECORD_FILE, ADAPTORS_FILE = "tensors.json", "adaptors.safetensors"
ROWS = 65_536
BLOCK, POOL = 1_024, 64
"""Rows that are read together from one file, and blocks whose rows are shuffled together."""
_PARTS = {"train": (Part.WINDOW, Part.TRAIN), "valid": (Part.VALID,), "test": (Part.TEST,)}

Progress = Callable[[str, int, int], None]


class TensorFolderError(MsdError):
    """Invalid folder: not written by `msd tensors`, or damaged."""


class TensorRecord(BaseModel):
    """Metadata of the tensors. `student`: fingerprint of the student that made the vectors, None without vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    feature_schema: FeatureSchema
    dataset: str
    student: str | None
    vector_dim: int
    rows: dict[str, int]


def write_tensors(
    dataset: Dataset, vectors: StudentVectors, semantics: bool, folder: Path, progress: Progress
) -> TensorRecord:
    """Write all rows as `PART-NNNNN.safetensors` of up to 65,536 rows: the schema's tensors, `label`, `impressions`
    (how many a row stands for) and `user` (the user's number, int64).

    Vectors are the student's, passed through adaptors that are their principal components. The record is written last.
    """
    torch.manual_seed(0)
    schema = fit_schema(dataset, semantics=semantics)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        old.unlink()
    with tempfile.TemporaryDirectory(dir=folder) as work:  # what is mapped outlives its name
        features = build_features(dataset, schema, vectors, arrays=Arrays(Path(work)))
    adaptors = Adaptors(schema, vectors.items.vectors.shape[1])
    adaptors.start_at(features)
    if len(adaptors):
        write_bytes_atomic(folder / ADAPTORS_FILE, save(dict(adaptors.state_dict())))
    features = adaptors.adapt(features)
    rows = {name: features.of_part(*parts) for name, parts in _PARTS.items()}
    total, done = sum(map(len, rows.values())), 0
    of_event = {
        "label": features.labels,
        "impressions": features.impressions,
        "user": torch.from_numpy(features.people(np.arange(len(features.parts)))),
    }
    for name, every in rows.items():
        for number, start in enumerate(range(0, len(every), ROWS)):
            events = every[start : start + ROWS]
            tensors = event_tensors(features, events) | {key: held[events] for key, held in of_event.items()}
            held = {key: value.contiguous() for key, value in tensors.items()}
            write_bytes_atomic(folder / f"{name}-{number:05}.safetensors", save(held))
            done += len(events)
            progress(name, done, total)
    record = TensorRecord(
        feature_schema=schema,
        dataset=dataset.fingerprint,
        student=vectors.student if semantics else None,
        vector_dim=vectors.items.vectors.shape[1],
        rows={name: len(events) for name, events in rows.items()},
    )
    write_text_atomic(folder / RECORD_FILE, record.model_dump_json(indent=2) + "\n")
    return record


def is_whole(folder: Path) -> bool:
    """Return whether record and adaptors can be read, and the files of rows are exactly those of the record."""
    try:
        record = load_record(folder)
        load_adaptors(folder, record)
    except TensorFolderError:
        return False
    due = {
        f"{name}-{number:05}.safetensors" for name, rows in record.rows.items() for number in range(-(-rows // ROWS))
    }
    return {path.name for path in folder.glob("*-*.safetensors")} == due


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """Return all rows of `train`, `valid` or `test` by tensor name. Raises TensorFolderError if it has no files."""
    shares = [load_file(path) for path in sorted(folder.glob(f"{part}-*.safetensors"))]
    if not shares:
        raise TensorFolderError(f"{folder}: has no {part}-*.safetensors; run `msd tensors` again")
    return {name: torch.cat([share[name] for share in shares]) for name in shares[0]}


def stream_batches(
    folder: Path, part: str, batch: int, epoch: int, *, rank: int = 0, size: int = 1, start: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of an epoch, whose random order depends on `epoch` alone, without those before `start`.

    Memory holds 65,536 rows, whatever the part has: blocks of the files in random order are read 64 at a time, and
    their rows are shuffled. Each of `size` processes gets an equal share of each batch, that of its `rank`.
    """
    total, rng = load_record(folder).rows[part], np.random.default_rng(epoch)
    blocks = rng.permutation(-(-total // BLOCK))
    for first in range(0, len(blocks), POOL):
        pool = blocks[first : first + POOL]
        order = rng.permutation(int(np.minimum(BLOCK, total - BLOCK * pool).sum()))
        batches = [order[place : place + batch] for place in range(0, len(order), batch)]
        if start < len(batches):
            rows = _read_blocks(folder, part, pool)
            for places in batches[start:]:
                own = torch.from_numpy(places[: len(places) // size * size][rank::size])
                yield {name: held[own] for name, held in rows.items()}
        start = max(0, start - len(batches))


def _read_blocks(folder: Path, part: str, blocks: NDArray[np.int64]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for number, place in zip(*divmod(BLOCK * blocks, ROWS), strict=True):
        with safe_open(folder / f"{part}-{number:05}.safetensors", "pt") as file:
            for name in file.keys():
                found.setdefault(name, []).append(file.get_slice(name)[int(place) : int(place) + BLOCK])
    return {name: torch.cat(parts) for name, parts in found.items()}


def load_record(folder: Path) -> TensorRecord:
    """Return the record of a folder. Raises TensorFolderError if it is missing or invalid."""
    missing = f"no tensors here ({RECORD_FILE} is missing); run `msd tensors`"
    again = "run `msd tensors` again"
    return read_record(folder / RECORD_FILE, TensorRecord, missing, again, TensorFolderError)


def load_adaptors(folder: Path, record: TensorRecord) -> Adaptors:
    """Return the adaptors that made the tensors' vectors, empty without semantics. Raises TensorFolderError."""
    adaptors = Adaptors(record.feature_schema, record.vector_dim)
    if not len(adaptors):
        return adaptors
    path = folder / ADAPTORS_FILE
    try:
        adaptors.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TensorFolderError(
            f"{path}: not the adaptors of {RECORD_FILE}; run `msd tensors` again ({error})"
        ) from None
    return adaptors.eval()
