"""Vectors of a catalogue's items and users, by ID; and the student's of untaught texts.

What the teacher wrote is in the vectors of taught texts, so they say nothing about new ads. So the weights of a
rehearsal without some items are stored, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.contract.words import BagOfWords, WordsError
from msd.step import read_record
from msd.student.record import VECTOR_DIM, StudentError, Vectors, load_record

if TYPE_CHECKING:
    from torch import Tensor

VECTORS_FILE, IDS_FILE, UNTAUGHT_FILE = "vectors.safetensors", "ids.json", "untaught.safetensors"
WORDS_FILE = "words.bin"

Level = Literal["items", "users"]


@dataclass(frozen=True)
class LevelVectors:
    """Vectors [n, 512] float32 of n distinct IDs, row by row."""

    ids: list[str]
    vectors: Vectors

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each ID."""
        return {name: row for row, name in enumerate(self.ids)}


@dataclass(frozen=True)
class StudentVectors:
    """Vectors of items and users, made by the student with this fingerprint. IDs without text have no vector."""

    student: str
    items: LevelVectors
    users: LevelVectors

    def gather(self, level: Level, ids: Sequence[str]) -> tuple[Vectors, npt.NDArray[np.bool_]]:
        """Return vectors [k, 512] of k IDs, zeros for missing ones, and which are present [k]."""
        held = self.items if level == "items" else self.users
        rows = np.fromiter((held.rows.get(name, -1) for name in ids), np.int64, len(ids))
        present = rows >= 0
        result = np.zeros((len(ids), VECTOR_DIM), np.float32)
        result[present] = held.vectors[rows[present]]
        return result, present


class _Ids(BaseModel):
    """ids.json."""

    format: Literal[2] = 2
    student: str
    items: list[str]
    users: list[str]

    @field_validator("items", "users")
    @classmethod
    def _check(cls, ids: list[str]) -> list[str]:
        if len(set(ids)) < len(ids):
            raise ValueError("has an id twice")
        return ids


def no_vectors() -> StudentVectors:
    """Return an empty set of vectors."""
    nothing = LevelVectors([], np.zeros((0, VECTOR_DIM), np.float32))
    return StudentVectors("", nothing, nothing)


def save_vectors(vectors: StudentVectors, folder: Path) -> None:
    """Write `vectors.safetensors`, then `ids.json`; both name the student."""
    levels = {"items": vectors.items, "users": vectors.users}
    tensors = {name: np.ascontiguousarray(level.vectors) for name, level in levels.items()}
    write_bytes_atomic(folder / VECTORS_FILE, save(tensors, {"student": vectors.student}))
    ids = _Ids(student=vectors.student, items=vectors.items.ids, users=vectors.users.ids)
    write_text_atomic(folder / IDS_FILE, json.dumps(ids.model_dump(), ensure_ascii=False) + "\n")


def load_vectors(folder: Path) -> StudentVectors:
    """Load the vectors in a student's folder.

    Raises StudentError if they are missing, damaged, or made by another student than the folder's.
    """
    fingerprint = load_record(folder).fingerprint
    absent = f"{IDS_FILE}: no such file, the vectors are missing"
    ids = read_record(folder / IDS_FILE, _Ids, absent, "distil again", StudentError)
    made_by, arrays = _read_arrays(folder / VECTORS_FILE)
    if {made_by, ids.student} != {fingerprint}:
        raise StudentError(
            f"{folder / VECTORS_FILE}: made by another student than the one in this folder; distil again"
        )
    levels = {}
    for level, names in (("items", ids.items), ("users", ids.users)):
        array = arrays[level]
        if array.dtype != np.float32 or array.shape != (len(names), VECTOR_DIM):
            raise StudentError(
                f"{folder / VECTORS_FILE}: {level}: {array.dtype} {list(array.shape)}, "
                f"but {IDS_FILE} has {len(names)} ids: float32 [{len(names)}, {VECTOR_DIM}] expected; distil again"
            )
        levels[level] = LevelVectors(names, array)
    return StudentVectors(fingerprint, levels["items"], levels["users"])


def _read_arrays(path: Path) -> tuple[str, dict[str, Vectors]]:
    if not path.is_file():
        raise StudentError(f"{path}: no such file, the vectors are missing; distil again")
    try:
        with safe_open(path, "np") as file:
            made_by = (file.metadata() or {}).get("student", "")
            return made_by, {level: file.get_tensor(level) for level in ("items", "users")}
    except SafetensorError as error:
        raise StudentError(f"{path}: {error}; the file is damaged, distil again") from error


def save_words(bag: BagOfWords, student: str, folder: Path) -> None:
    """Write the bag of words that the student with this fingerprint was taught."""
    write_bytes_atomic(folder / WORDS_FILE, replace(bag, student=student).pack())


def load_words(folder: Path) -> BagOfWords | None:
    """Return the bag of words of the student in a folder; None if it was taught none. Raises StudentError."""
    path = folder / WORDS_FILE
    if not path.is_file():
        return None
    try:
        bag = BagOfWords.unpack(path.read_bytes(), str(path))
    except WordsError as error:
        raise StudentError(f"{error}; distil again") from None
    if bag.student != load_record(folder).fingerprint:
        raise StudentError(f"{path}: of another student than the one in this folder; distil again")
    return bag


def save_untaught(folder: Path, student: str, weights: "Mapping[str, Tensor]", items: Sequence[str]) -> None:
    """Write the weights in which the rehearsed student differs from the student with this fingerprint, and the IDs of
    the items that were held out from it."""
    from safetensors.torch import save

    metadata = {"student": student, "items": json.dumps(list(items))}
    held = {name: value.detach().contiguous() for name, value in weights.items()}
    write_bytes_atomic(folder / UNTAUGHT_FILE, save(held, metadata))


def copy_untaught(given: Path, folder: Path) -> None:
    """Write the rehearsal of the student in the folder `given`, if it has one, beside the student in `folder`, which
    was made from it. Raises StudentError."""
    if (given / UNTAUGHT_FILE).is_file():
        weights, items = _read_untaught(given / UNTAUGHT_FILE, load_record(given).fingerprint)
        save_untaught(folder, load_record(folder).fingerprint, weights, items)


def untaught_items(folder: Path, texts: Mapping[str, str]) -> LevelVectors:
    """Return vectors, by ID, of the items held out from the rehearsed student in `folder`, made from their texts.

    Empty for a student that was distilled before rehearsals existed. Raises StudentError.
    """
    # Loads libraries that measuring models without vectors does not need.
    import torch

    from msd.student.encoder import encode_texts, load_student

    path = folder / UNTAUGHT_FILE
    if not path.is_file():
        return no_vectors().items
    weights, items = _read_untaught(path, load_record(folder).fingerprint)
    ids = [id_ for id_ in items if id_ in texts]
    if not ids:
        return no_vectors().items
    student = load_student(folder)
    held = dict(student.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            held[name].copy_(weight)
    return LevelVectors(ids, encode_texts(student, [texts[id_] for id_ in ids]))


def _read_untaught(path: Path, student: str) -> "tuple[dict[str, Tensor], list[str]]":
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
            items: list[str] = json.loads(metadata["items"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise StudentError(f"{path}: {error}; the file is damaged, distil again") from None
    if metadata.get("student") != student:
        raise StudentError(f"{path}: of another student than the one in this folder; distil again")
    return weights, items
