"""The student's vectors of untaught texts, from the weights of a rehearsal without some items.

A served student has memorised its catalogue: its own vectors of catalogue items say nothing about new ads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from msd.contract.files import write_bytes_atomic
from msd.student.record import VECTOR_DIM, StudentError, load_record
from msd.student.vectors import LevelVectors

UNTAUGHT_FILE = "untaught.safetensors"
_NOBODY = LevelVectors([], np.zeros((0, VECTOR_DIM), np.float32))


def save_untaught(folder: Path, student: str, weights: Mapping[str, Tensor], items: Sequence[str]) -> None:
    """Write the weights in which the rehearsed student differs from the student with this fingerprint, and the IDs of
    the items that were held out from it."""
    metadata = {"student": student, "items": json.dumps(list(items))}
    held = {name: value.detach().contiguous() for name, value in weights.items()}
    write_bytes_atomic(folder / UNTAUGHT_FILE, save(held, metadata))


def untaught_items(folder: Path, tuned: Path | None, texts: Mapping[str, str]) -> LevelVectors:
    """Return vectors, by ID, of the items held out from the rehearsed student in `folder`, made from their texts.

    `tuned`: the folder of the student that was then tuned with a ranker, if any: its changes are applied here, too.
    Empty for a student that was distilled before rehearsals existed. Raises StudentError.
    """
    # Loads the encoder's libraries, which measuring models without vectors does not need.
    from msd.student.encoder import encode_texts, load_student

    path = folder / UNTAUGHT_FILE
    if not path.is_file():
        return _NOBODY
    weights, items = _read(path, load_record(folder).fingerprint)
    ids = [one for one in items if one in texts]
    if not ids:
        return _NOBODY
    student = load_student(folder)
    held = dict(student.named_parameters())
    later = dict(load_student(tuned).named_parameters()) if tuned else held
    with torch.no_grad():
        # Tuning may have changed weights that distilling leaves alone.
        for name in held.keys() | weights.keys():
            change = later[name] - held[name]
            held[name].copy_(weights.get(name, held[name]) + change)
    return LevelVectors(ids, encode_texts(student, [texts[one] for one in ids]))


def _read(path: Path, student: str) -> tuple[dict[str, Tensor], list[str]]:
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
