"""Fit of the student's words head by ridge regression, and its measurements. Knows vectors, not texts or clicks."""

from dataclasses import dataclass

import numpy as np
import torch

from msd.student.encoder import Student
from msd.student.lessons import Rows
from msd.student.record import Vectors

_CHUNK = 1024


@dataclass(frozen=True)
class DistillConfig:
    """`layers`: number of the encoder's layers to keep, all by default. `users`: whether to read texts of users.
    `holdout`: share of the lessons that the rehearsal withholds. `ridge`: penalty on the squared weights, for vectors
    of unit length."""

    seed: int = 0
    layers: int | None = None
    users: bool = True
    holdout: float = 0.1
    ridge: float = 3.0


def fit_words(student: Student, meaning: Vectors, targets: Vectors, ridge: float) -> None:
    """Set the student's words head to the linear map from k texts' meaning [k, 384] to their words [k, 128] with the
    least squared error; zero targets do not count."""
    written = targets.any(axis=1)
    if not written.any():
        return
    inputs, outputs = meaning[written].astype(np.float64), targets[written].astype(np.float64)
    centre, mean = inputs.mean(axis=0), outputs.mean(axis=0)
    inputs -= centre
    gram = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    weight = np.linalg.solve(gram, inputs.T @ (outputs - mean)).T
    with torch.no_grad():
        student.words.weight.copy_(torch.from_numpy(weight))
        student.words.bias.copy_(torch.from_numpy(mean - weight @ centre))


def measure(vectors: Vectors, targets: Vectors, rows: Rows) -> dict[str, float]:
    """Return figures over the lessons `rows` of vectors and targets [k, 128]; zero targets do not count.

    recall_1, recall_10: share of lessons with their own target as the nearest, or among the ten nearest, of all targets
    (ties count against). cosine: mean with the own target. candidates: number of non-zero targets.
    """
    written = np.asarray(targets.any(axis=1))
    # The non-empty lessons, renumbered.
    rows = (np.cumsum(written) - 1)[rows[written[rows]]]
    vectors, targets = vectors[written][rows], targets[written]
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
