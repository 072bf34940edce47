"""Datasets made in memory, vectors made of words, and quickly trained rankers and students: what tests share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import torch
from torch import nn

from msd.contract.schema import FeatureSchema
from msd.dataset.config import DatasetConfig
from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.ranker.batch import Hiding, TrainedRanker, batch_opinions
from msd.ranker.features import Features
from msd.ranker.model import RankerConfig
from msd.student.encoder import encode_texts, save_student
from msd.student.lessons import fit_bag, teachers_words
from msd.student.record import HEADS, RECORD_FILE, VECTOR_DIM, BertConfig, StudentRecord
from msd.student.vectors import LevelVectors, StudentVectors, save_untaught, save_vectors, save_words
from msd.teachers.knowledge import Knowledge
from msd.training.folder import RankerRecord, save_ranker
from msd.training.train import EpochReport, Progress, TrainConfig, train_ranker
from tests.student.small import small_student

STUDENT = "5" * 64
CHECKPOINT = "checkpoint.safetensors"
QUICK = TrainConfig(epochs=4, patience=2, averaging=3.0)
SHORT = replace(QUICK, epochs=1)
SMALL = RankerConfig(hidden=(32, 16), embedding=8)

Row = tuple[str, str, int, int]
Columns = Mapping[str, Sequence[Any]]
Run = Callable[..., tuple[int, str]]
Trained = tuple[TrainedRanker, list[EpochReport]]


@dataclass(frozen=True)
class World:
    """A dataset, what was fitted and encoded of it, and a ranker trained on that."""

    dataset: Dataset
    vectors: StudentVectors
    schema: FeatureSchema
    features: Features
    model: TrainedRanker
    curve: list[EpochReport]


def dataset_of(
    rows: Iterable[Row],
    *,
    events: Columns | None = None,
    items: Columns | None = None,
    users: Columns | None = None,
    **config: Any,  # noqa: ANN401 - any section of dataset.toml
) -> Dataset:
    """A dataset of (user, item, at, label) rows, with columns of context features aligned with them."""
    sections = {"events": {"file": "e.csv"}, "items": {"file": "i.csv", "text": "{title}"}, "users": {"file": "u.csv"}}
    of_users = {"split": {"by": "user"}}  # small as these are, each part then knows each user
    parsed = DatasetConfig.model_validate({"format": 1, "name": "made", **sections, **of_users, **config})
    schema = {"user_id": pl.String, "item_id": pl.String, "at": pl.Int64, "label": pl.Int8}
    table = pl.DataFrame(list(rows), schema=schema, orient="row").with_columns(
        pl.Series(name, values) for name, values in (events or {}).items()
    )
    return Dataset(
        config=parsed,
        folder=Path("made"),
        events=table.sort("at", "user_id", "item_id", maintain_order=True),
        items=pl.DataFrame(items or {"item_id": pl.Series([], dtype=pl.String)}),
        users=pl.DataFrame(users or {"user_id": pl.Series([], dtype=pl.String)}),
        fingerprint="d" * 64,
    )


def word_vectors(dataset: Dataset) -> StudentVectors:
    """Vectors of all texts but every ninth, each the sum of its words' directions: alike words, alike vectors."""
    return StudentVectors(STUDENT, *(_level(texts) for texts in student_texts(dataset)))


def _level(texts: Mapping[str, str]) -> LevelVectors:
    kept = {one: text for number, (one, text) in enumerate(texts.items()) if number % 9 != 8}
    return LevelVectors(list(kept), np.stack([_vector(text) for text in kept.values()]))


def _vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    words = text.lower().replace(",", " ").replace(".", " ").split()
    total = np.sum([np.random.default_rng(crc32(word.encode())).standard_normal(VECTOR_DIM) for word in words], axis=0)
    return np.asarray(total / np.linalg.norm(total), np.float32)


def write_student(folder: Path, vectors: StudentVectors) -> Path:
    """A student's folder as far as the ranker reads it: its record and its vectors."""
    folder.mkdir(parents=True)
    record = StudentRecord(start="words", max_tokens=128, bert=BertConfig(), fingerprint=vectors.student)
    (folder / RECORD_FILE).write_text(record.model_dump_json())
    save_vectors(vectors, folder)
    return folder


def save_world(folder: Path, world: World, seed: int = 0) -> Path:
    """Save the world's ranker as `msd train` does, and return its folder."""
    record = RankerRecord(
        feature_schema=world.schema,
        config=world.model.config,
        training={"seed": seed},
        curve=tuple(world.curve),
        vector_dim=world.features.item.vectors.shape[1],
        dataset=world.dataset.fingerprint,
        student=world.vectors.student or None,
        conversions=world.model.has_conversions,
    )
    save_ranker(folder, world.model, record)
    return folder


def train_quickly(features: Features, folder: Path, config: TrainConfig = QUICK) -> Trained:
    return train_ranker(features, SMALL, config, folder / CHECKPOINT, "made", quiet)


def batch_logits(
    model: TrainedRanker,
    features: Features,
    events: np.ndarray[Any, np.dtype[np.int64]],
    hiding: Hiding | None = None,
) -> torch.Tensor:
    """Uncalibrated logits [B] of B events, blended."""
    return model.ranker.blended(batch_opinions(model, model.adaptors.adapt(features), events, hiding))


def quiet(epoch: int, step: int, loss: float) -> None:
    """A progress bar that nobody sees."""


class Cut(Exception):
    """A run ends here, as if it were killed."""


def cut_at(epoch: int, step: int) -> Progress:
    def progress(now: int, done: int, loss: float) -> None:
        if (now, done) == (epoch, step):
            raise Cut

    return progress


def assert_same_weights(found: nn.Module, expected: nn.Module) -> None:
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, weights[name]), name


def write_small_student(folder: Path, dataset: Dataset, known: Mapping[str, Knowledge] | None = None) -> StudentVectors:
    """Writes what `msd distill` would: a student, its vectors, which are returned, and the rehearsal that every third
    item was kept from, though it ended at the same weights. `known`: what it was taught of items, if it was."""
    texts = student_texts(dataset)
    student = small_student(text for level in texts for text in level.values())
    items, users = (LevelVectors(list(level), encode_texts(student, list(level.values()))) for level in texts)
    fingerprint = save_student(student, folder)
    if known:
        save_words(bag := fit_bag(teachers_words(list(known.values()))), fingerprint, folder)
        taught = [name for name in items.ids if name in known]
        words = bag.coordinates(teachers_words([known[name] for name in taught]))
        items.vectors[[items.rows[name] for name in taught], HEADS["words"]] = words
    vectors = StudentVectors(fingerprint, items, users)
    save_vectors(vectors, folder)
    save_untaught(folder, vectors.student, {}, items.ids[::3])
    return vectors
