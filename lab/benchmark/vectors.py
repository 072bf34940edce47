"""Sources of a network's vectors: the student, the plain encoder, the teacher's words themselves.

All have the student's width, so that they differ only in content.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.benchmark.protocol import Progress
from lab.benchmark.variant import Source
from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.ranker.features import Features, SideFeatures
from msd.step import fingerprint_of
from msd.student.encoder import encode_texts, new_student
from msd.student.lessons import fit_bag, teachers_words
from msd.student.record import HEADS, VECTOR_DIM, WORDS_DIM, Vectors
from msd.student.vectors import Level, LevelVectors, StudentVectors, load_vectors
from msd.teachers.knowledge import Knowledge, KnowledgeBase

_LEADING = 32
NOBODY = LevelVectors([], np.zeros((0, VECTOR_DIM), np.float32))
NOTHING = StudentVectors("", NOBODY, NOBODY)


class VectorSources:
    """Vectors of one dataset by source, each made on first use; of items alone unless `users`. `distil`: returns the
    student's folder."""

    def __init__(
        self,
        dataset: Dataset,
        base: KnowledgeBase,
        distil: Callable[[], Path],
        progress: Progress,
        *,
        users: bool = True,
    ) -> None:
        self._dataset, self._base, self._distil, self._progress, self._users = dataset, base, distil, progress, users
        self.knowledge = fingerprint_of(
            *(one.model_dump() for level in (base.items, base.users) for one in level.values())
        )
        self.of: Callable[[Source], StudentVectors] = cache(self._make)

    @cached_property
    def student(self) -> StudentVectors:
        """The student's vectors."""
        return load_vectors(self._distil())

    def made_of(self, source: Source) -> list[object]:
        """Return what the vectors of a source depend on besides the dataset."""
        student = self.student.student if source in ("student", "untaught") else None
        return [source, self.knowledge, self._users, student]

    def _make(self, source: Source) -> StudentVectors:
        """Return vectors that have a fingerprint of their source as `student`."""
        if source == "student" and self._users:
            return self.student
        users = self._level(source, "users") if self._users else NOBODY
        return StudentVectors(fingerprint_of(*self.made_of(source)), self._level(source, "items"), users)

    def _level(self, source: Source, level: Level) -> LevelVectors:
        if source == "plain":
            return self._encode(student_texts(self._dataset)[level == "users"])
        if source == "bag_of_words":
            return bag_of_words(self._base.items if level == "items" else self._base.users)
        return self.student.items if level == "items" else self.student.users

    def _encode(self, texts: Mapping[str, str]) -> LevelVectors:
        done = 0

        def count(batch: int) -> None:
            nonlocal done
            done += batch
            self._progress("encoding raw texts", done, len(texts))

        vectors = encode_texts(new_student(), list(texts.values()), on_batch=count)
        vectors[:, HEADS["words"]] = 0.0  # an untrained words head is random
        return LevelVectors(list(texts), vectors)


def bag_of_words(known: Mapping[str, Knowledge]) -> LevelVectors:
    """Return vectors [n, 896] with the bag-of-words coordinates [n, 128] of one level, as in the student's lessons: the
    leading directions in the words block, the rest at the front."""
    if not known:
        return NOBODY
    texts = teachers_words(list(known.values()))
    coordinates = fit_bag(texts).coordinates(texts)
    vectors = np.zeros((len(texts), VECTOR_DIM), np.float32)
    vectors[:, HEADS["words"]][:, :_LEADING] = coordinates[:, :_LEADING]
    vectors[:, : WORDS_DIM - _LEADING] = coordinates[:, _LEADING:]
    return LevelVectors(list(known), vectors)


def with_vectors(features: Features, vectors: StudentVectors) -> Features:
    """Return features as if built with these vectors, without walking through the events again."""
    user = _side(features.user, *vectors.gather("users", features.user.entities.ids), features.knows_user)
    item = _side(features.item, *vectors.gather("items", features.item.entities.ids), torch.ones(1, dtype=torch.bool))
    return replace(features, user=user, item=item)


def _side(side: SideFeatures, vectors: Vectors, present: NDArray[np.bool_], counts: Tensor) -> SideFeatures:
    held = torch.from_numpy(np.append(present, False))
    known = (held[side.rows] & counts).float()
    counted = {name: getattr(side, name).clone() for name in ("dense", "live_dense", "aged_dense")}
    for numbers in counted.values():
        numbers[..., -1] = known  # the last dense column says whether there is a vector
    padded = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), np.float32)])
    return replace(side, **counted, vectors=torch.from_numpy(padded), present=held)
