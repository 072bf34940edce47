"""The student's vectors of a catalogue's items and users, by ID. Knows IDs and arrays, not texts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from msd.contract.files import write_bytes_atomic, write_text_atomic
from msd.student.record import VECTOR_DIM, StudentError, Vectors, load_record

FORMAT = 2
VECTORS_FILE, IDS_FILE = "vectors.safetensors", "ids.json"

Level = Literal["items", "users"]


@dataclass(frozen=True)
class LevelVectors:
    """Vectors [n, 896] float32 of n distinct IDs, row by row."""

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
        """Return vectors [k, 896] of k IDs, zeros for missing ones, and which are present [k]."""
        held = self.items if level == "items" else self.users
        rows = np.fromiter((held.rows.get(name, -1) for name in ids), np.int64, len(ids))
        present = rows >= 0
        result = np.zeros((len(ids), VECTOR_DIM), np.float32)
        result[present] = held.vectors[rows[present]]
        return result, present


def no_vectors() -> StudentVectors:
    """Return an empty set of vectors."""
    nothing = LevelVectors([], np.zeros((0, VECTOR_DIM), np.float32))
    return StudentVectors("", nothing, nothing)


def save_vectors(vectors: StudentVectors, folder: Path) -> None:
    """Write `vectors.safetensors`, then `ids.json`; both name the student."""
    levels = {"items": vectors.items, "users": vectors.users}
    tensors = {name: np.ascontiguousarray(level.vectors) for name, level in levels.items()}
    write_bytes_atomic(folder / VECTORS_FILE, save(tensors, {"student": vectors.student}))
    ids = {"format": FORMAT, "student": vectors.student, "items": vectors.items.ids, "users": vectors.users.ids}
    write_text_atomic(folder / IDS_FILE, json.dumps(ids, ensure_ascii=False) + "\n")


def load_vectors(folder: Path) -> StudentVectors:
    """Load the vectors in a student's folder.

    Raises StudentError if they are missing, damaged, or made by another student than the folder's.
    """
    fingerprint = load_record(folder).fingerprint
    ids = _read_ids(folder / IDS_FILE)
    made_by, arrays = _read_arrays(folder / VECTORS_FILE)
    if {made_by, ids["student"]} != {fingerprint}:
        raise StudentError(
            f"{folder / VECTORS_FILE}: made by another student than the one in this folder; distil again"
        )
    levels = {}
    for level in ("items", "users"):
        names, array = ids[level], arrays[level]
        if array.dtype != np.float32 or array.shape != (len(names), VECTOR_DIM):
            raise StudentError(
                f"{folder / VECTORS_FILE}: {level}: {array.dtype} {list(array.shape)}, "
                f"but {IDS_FILE} has {len(names)} ids: float32 [{len(names)}, {VECTOR_DIM}] expected; distil again"
            )
        levels[level] = LevelVectors(names, array)
    return StudentVectors(fingerprint, levels["items"], levels["users"])


def _read_ids(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise StudentError(f"{path}: no such file, the vectors are missing; distil again")
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudentError(f"{path}: not JSON ({error}); distil again") from error
    if not isinstance(ids, dict) or ids.get("format") != FORMAT:
        found = ids.get("format") if isinstance(ids, dict) else ids
        raise StudentError(f"{path}: format {found!r}, this version reads format {FORMAT}; distil again")
    missing = [key for key in ("student", "items", "users") if key not in ids]
    if missing:
        raise StudentError(f"{path}: has no {' and no '.join(missing)}; distil again")
    for level in ("items", "users"):
        names = ids[level]
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or len(set(names)) < len(names)
        ):
            raise StudentError(f"{path}: {level}: a list of distinct ids expected; distil again")
    return ids


def _read_arrays(path: Path) -> tuple[str, dict[str, Vectors]]:
    if not path.is_file():
        raise StudentError(f"{path}: no such file, the vectors are missing; distil again")
    try:
        with safe_open(path, "np") as file:
            made_by = (file.metadata() or {}).get("student", "")
            return made_by, {level: file.get_tensor(level) for level in ("items", "users")}
    except SafetensorError as error:
        raise StudentError(f"{path}: {error}; the file is damaged, distil again") from error
