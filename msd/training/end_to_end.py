"""The student trained with the ranker that reads it: vectors of a step's texts with gradients, all texts' vectors of
the weights so far, and the tuned student's folder.

Knows texts and vectors, not how the ranker is trained (`msd.training.train`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from msd.contract.rows import ROW_SIDES, RowSide
from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, SideFeatures
from msd.ranker.timeline import entity_ids
from msd.student.encoder import Student, load_student, save_student
from msd.student.lora import Lora, TextStates, merge
from msd.student.record import StudentError
from msd.student.vectors import LevelVectors, StudentVectors, copy_untaught, load_vectors, save_vectors

_TRAINED: Mapping[RowSide, int] = {"item": 192, "user": 16}  # texts of a step with gradients; users' are longer


class Encoding:
    """Where training has the vectors of its features from: they stay as they were given."""

    def of_step(
        self, model: TrainedRanker, features: Features, events: NDArray[np.int64], rng: np.random.Generator
    ) -> Features:
        """Return the features for a step on some events."""
        return features

    def refreshed(self, model: TrainedRanker, features: Features) -> Features:
        """Return the features with vectors of the model as it is now."""
        return features


GIVEN = Encoding()


class StudentTexts(NamedTuple):
    """A student's folder; by side, the texts that it reads, by ID, and the dataset's IDs in the features' order."""

    student: Path
    texts: Mapping[RowSide, Mapping[str, str]]
    ids: Mapping[RowSide, list[str]]

    @classmethod
    def of(cls, student: Path, dataset: Dataset) -> "StudentTexts":
        """Return what a student reads of a dataset."""
        texts: Mapping[RowSide, Mapping[str, str]] = dict(zip(("item", "user"), student_texts(dataset), strict=True))
        return cls(student, texts, {side: entity_ids(dataset, side) for side in ROW_SIDES})


class TextsOfSide(NamedTuple):
    """A side's texts: their IDs, their states below the trained layers, and the text [n + 1] of each row, or -1."""

    ids: list[str]
    states: TextStates
    text_of: NDArray[np.int64]


@dataclass(frozen=True)
class EndToEnd(Encoding):
    """The student's texts, ready to be encoded anew at each step."""

    student: Student
    layers: int
    sides: Mapping[RowSide, TextsOfSide]

    @classmethod
    def of(cls, given: StudentTexts, features: Features, layers: int, work: Path) -> "EndToEnd":
        """Read the student, and write its texts' states below the trained layers to files in `work`. Raises
        StudentError if a vector has no text, or the student has too few layers."""
        student, vectors = load_student(given.student).requires_grad_(False), load_vectors(given.student)
        if (depth := student.record.bert.num_hidden_layers) < layers:
            raise StudentError(f"{given.student}: has {depth} layers, fewer than the {layers} to tune; distil again")
        work.mkdir(parents=True, exist_ok=True)
        levels: Mapping[RowSide, LevelVectors] = {"item": vectors.items, "user": vectors.users}
        sides: dict[RowSide, TextsOfSide] = {}
        for side, level in levels.items():
            named = given.texts[side]
            if not features.schema.semantic(side) or not level.ids:
                continue
            if missing := [id_ for id_ in level.ids if id_ not in named]:
                raise StudentError(
                    f"{given.student}: {len(missing)} {side}s with a vector have no text in the dataset, such as "
                    f"{missing[0]!r}; distil again"
                )
            states = TextStates(student, [named[id_] for id_ in level.ids], layers, work / f"{side}.npy")
            text_of = np.array([*(level.rows.get(id_, -1) for id_ in given.ids[side]), -1], np.int64)
            sides[side] = TextsOfSide(level.ids, states, text_of)
        return cls(student, layers, sides)

    def of_step(
        self, model: TrainedRanker, features: Features, events: NDArray[np.int64], rng: np.random.Generator
    ) -> Features:
        """Return the features with adapted vectors of what the events read, a part of them encoded with gradients: the
        events' own items first, then others of their histories.

        What is encoded replaces what `features` have, so that the next steps read it. Adaptors have gradients of all.
        """
        chosen, adapted = torch.from_numpy(events), dict(features.adapted)
        for side, texts in self.sides.items():
            held = _held(features, side)
            own = np.unique(held.rows[chosen].numpy())
            read = np.unique(features.history[chosen].numpy()) if side == "item" else own[:0]
            others = np.setdiff1d(read[read >= 0], own)
            order = np.concatenate([rng.permutation(own), rng.permutation(others)])
            fresh = order[texts.text_of[order] >= 0][: _TRAINED[side]]
            known = torch.from_numpy(np.concatenate([own, others])).long()
            vectors, place = held.vectors[known], {row: at for at, row in enumerate(known.tolist())}
            if len(fresh) and isinstance(model.lora, Lora):
                encoded = texts.states.vectors(model.lora, texts.text_of[fresh])
                at = torch.tensor([place[row] for row in fresh.tolist()])
                vectors = vectors.index_put((at,), encoded)
                held.vectors[torch.from_numpy(fresh)] = encoded.detach()
            values = model.adaptors[side](vectors) * held.present[known].unsqueeze(-1)
            adapted[side] = values.new_zeros(len(held.vectors), values.shape[1]).index_put((known,), values)
        return replace(features, adapted=adapted)

    def refreshed(self, model: TrainedRanker, features: Features) -> Features:
        """Return the features with all texts' vectors as the model's student makes them now, of their own."""
        return self.encoded(features, _lora(model))

    def encoded(self, features: Features, lora: Lora | None = None) -> Features:
        """Return the features with the student's own vectors of all texts: its guess at the teacher's words, not these
        words, because training reads what the tuned student will make of a text."""
        changed: dict[RowSide, SideFeatures] = {}
        for side, texts in self.sides.items():
            held, rows = _held(features, side), np.flatnonzero(texts.text_of >= 0)
            vectors = held.vectors.clone()
            vectors[torch.from_numpy(rows)] = torch.from_numpy(texts.states.all_vectors(lora))[texts.text_of[rows]]
            changed[side] = replace(held, vectors=vectors)
        return replace(features, user=changed.get("user", features.user), item=changed.get("item", features.item))

    def save(self, model: TrainedRanker, given: Path, out: Path) -> str:
        """Merge the model's differences into the student, and write it with all its vectors into the folder `out`;
        return its fingerprint. `given`: the student's folder before."""
        levels = {
            side: LevelVectors(texts.ids, texts.states.all_vectors(_lora(model))) for side, texts in self.sides.items()
        }
        if lora := _lora(model):
            merge(self.student, lora, self.layers)
        nothing = load_vectors(given)  # of a side that the ranker does not read
        out.mkdir(parents=True, exist_ok=True)
        fingerprint = save_student(self.student, out)
        save_vectors(
            StudentVectors(fingerprint, levels.get("item", nothing.items), levels.get("user", nothing.users)), out
        )
        copy_untaught(given, out)
        return fingerprint


def make_trainable(model: TrainedRanker) -> None:
    """Give a model what is trained with it: adaptors, and the student's differences, as its config says."""
    model.adaptors.requires_grad_(True)
    if model.config.rank and model.config.layers:
        model.lora = Lora(model.config.rank, model.config.layers)


def _lora(model: TrainedRanker) -> Lora | None:
    return model.lora if isinstance(model.lora, Lora) else None


def _held(features: Features, side: RowSide) -> SideFeatures:
    return features.user if side == "user" else features.item
