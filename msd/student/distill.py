"""Fit of the student's words head by ridge regression, and its measurements. Knows vectors, not texts or clicks."""

from dataclasses import dataclass

import numpy as np
import torch

from msd.student.encoder import Student
from msd.student.lessons import Rows
from msd.student.record import Vectors


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
    """Return the mean `cosine` of vectors and targets [k, 128] over the lessons `rows`; zero targets do not count, and
    without any other there is none."""
    rows = rows[targets[rows].any(axis=1)]
    return {"cosine": round(float((vectors[rows] * targets[rows]).sum(axis=1).mean()), 4)} if len(rows) else {}
