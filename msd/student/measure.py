"""How much of the teacher's knowledge a vector made from raw text holds: retrieval of the right text, and cosine."""

import numpy as np

from msd.student.lessons import Rows
from msd.student.record import HEAD_DIM, Vectors

HEADS = {"explicit": slice(0, HEAD_DIM), "implicit": slice(HEAD_DIM, 2 * HEAD_DIM)}

_CHUNK = 1024

Figures = dict[str, dict[str, float]]


def measure(vectors: Vectors, targets: Vectors, rows: Rows) -> Figures:
    """Per head, over the lessons `rows` of vectors [k, 768] and targets [k, 768].

    recall_1, recall_10: the share whose own target is the nearest, or among the ten nearest, of all k targets
    (ties count against). cosine: the mean with the own target. candidates: k.
    """
    return {name: _measure_head(vectors[rows, half], targets[:, half], rows) for name, half in HEADS.items()}


def _measure_head(vectors: Vectors, targets: Vectors, rows: Rows) -> dict[str, float]:
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
    """How many other targets are at least as near as the own one, [B]."""
    cosine = vectors @ targets.T
    own = cosine[np.arange(len(rows)), rows]
    nearer: Rows = (cosine >= own[:, None]).sum(axis=1) - 1
    return nearer
