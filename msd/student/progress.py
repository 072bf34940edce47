"""Measurements of distilling, and its progress as stored in the checkpoint.

Measured is how much of the teacher's knowledge is in vectors of raw text: retrieval of the right target, and cosine.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from msd.student.lessons import Rows
from msd.student.record import HEADS, Vectors

_CHUNK = 1024

Figures = dict[str, dict[str, float]]
Stage = Literal["search", "rehearsal", "catalogue", "done"]


class Epoch(BaseModel):
    """Measurements of one pass; `held_out_loss` is None outside the search."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    epoch: int
    loss: float
    held_out_loss: float | None


class Progress(BaseModel):
    """Progress of a run: `epoch` passes of `stage` are done. `best_epoch` is of the search; 0 is before training."""

    model_config = ConfigDict(frozen=True)

    stage: Stage = "search"
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float
    history: tuple[Epoch, ...] = ()
    figures: dict[str, Figures] = {}


def measure(vectors: Vectors, targets: Vectors, rows: Rows) -> Figures:
    """Return figures per head over the lessons `rows` of vectors [k, 896] and targets [k, 896]; zero targets do not
    count.

    recall_1, recall_10: share of lessons with their own target as the nearest, or among the ten nearest, of all targets
    (ties count against). cosine: mean with the own target. candidates: number of non-zero targets.
    """
    return {name: _measure_head(vectors[:, part], targets[:, part], rows) for name, part in HEADS.items()}


def _measure_head(vectors: Vectors, targets: Vectors, rows: Rows) -> dict[str, float]:
    said = np.asarray(targets.any(axis=1))
    # The non-empty lessons, renumbered.
    rows = (np.cumsum(said) - 1)[rows[said[rows]]]
    vectors, targets = vectors[said][rows], targets[said]
    if not len(rows):
        return {}
    starts = range(0, len(rows), _CHUNK)
    own = (vectors * targets[rows]).sum(axis=1)
    better = np.concatenate([_better(vectors[at : at + _CHUNK], targets, rows[at : at + _CHUNK]) for at in starts])
    return {
        "recall_1": round(float((better < 1).mean()), 4),
        "recall_10": round(float((better < 10).mean()), 4),
        "cosine": round(float(own.mean()), 4),
        "candidates": len(targets),
    }


def _better(vectors: Vectors, targets: Vectors, rows: Rows) -> Rows:
    """Return the number of other targets at least as near as the own one, [B]."""
    cosine = vectors @ targets.T
    own = cosine[np.arange(len(rows)), rows]
    nearer: Rows = (cosine >= own[:, None]).sum(axis=1) - 1
    return nearer
