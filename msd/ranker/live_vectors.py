"""Vectors of a few texts with gradients; all others come from a cache."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd.ranker.features import SideFeatures
from msd.student.encoder import Student
from msd.student.record import StudentError, Vectors
from msd.student.states import TextStates
from msd.student.vectors import LevelVectors

Rows = NDArray[np.int64]


def require_texts(name: str, level: LevelVectors, texts: Mapping[str, str]) -> None:
    """Raise StudentError if a vector has no text; `name`: user or item."""
    if missing := [one for one in level.ids if one not in texts]:
        raise StudentError(
            f"the student has vectors of {len(missing)} {name}s without a text in the dataset, "
            f"such as {missing[0]!r}; distil again"
        )


class CachedTexts:
    """A side's texts as inputs of the student's trained layers, and the text of each of the side's rows.

    Raises StudentError if a vector has no text.
    """

    def __init__(
        self, side: SideFeatures, level: LevelVectors, texts: Mapping[str, str], student: Student, frozen: int
    ) -> None:
        require_texts(side.entities.side, level, texts)
        self.ids = level.ids
        self.states = TextStates(student, [texts[one] for one in level.ids], frozen)
        self.text_of = np.array([level.rows.get(one, -1) for one in side.entities.ids] + [-1], np.int64)

    def draw(self, rows: Rows, count: int, rng: np.random.Generator) -> Rows:
        """Draw up to `count` distinct rows of the side that have a text."""
        distinct = np.unique(rows)
        return rng.permutation(distinct[self.text_of[distinct] >= 0])[:count]

    def refreshed(self, side: SideFeatures, vectors: Vectors) -> SideFeatures:
        """Return the side's features with new vectors of all texts."""
        held = np.flatnonzero(self.text_of >= 0)
        fresh = side.vectors.clone()
        fresh[torch.from_numpy(held)] = torch.from_numpy(vectors[self.text_of[held]]).to(fresh.device)
        return replace(side, vectors=fresh)


class LiveVectors:
    """A side's vectors, some rows' freshly encoded: gradients reach the student only through these."""

    def __init__(self, side: SideFeatures, texts: CachedTexts, student: Student, rows: Rows) -> None:
        self._cache, self._rows = side.vectors, torch.from_numpy(rows).to(side.vectors.device)
        self._place = torch.full((len(self._cache),), -1, device=self._cache.device)
        self._place[self._rows] = torch.arange(len(rows), device=self._cache.device)
        self._fresh = texts.states.vectors(student, texts.text_of[rows]) if len(rows) else self._cache[:0]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the vectors [n, V] of rows [n]."""
        place = self._place[rows.long()]
        at = torch.nonzero(place >= 0).squeeze(1)
        return self._cache[rows].index_put((at,), self._fresh[place[at]])

    def keep(self) -> None:
        """Write the fresh vectors into the cache."""
        self._cache[self._rows] = self._fresh.detach()
