"""A small student, its vectors of the tiny dataset, and a ranker trained on them: what tests of tuning begin with."""

from dataclasses import dataclass
from pathlib import Path

from msd.dataset.load import Dataset
from msd.dataset.texts import student_texts
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.encoder import Student, encode_texts, save_student
from msd.student.vectors import LevelVectors, StudentVectors, save_untaught, save_vectors
from msd.training.finetune import TuneConfig, Tuned, finetune_ranker
from msd.training.train import Progress
from tests.ranker.made import SHORT, quiet, train_quickly
from tests.student.small import small_student

TUNE = TuneConfig(epochs=2, learning_rate=2e-3, ranker_learning_rate=1e-3)


@dataclass(frozen=True)
class Untuned:
    """A ranker before tuning. `student()` makes its student anew, because tuning changes it."""

    dataset: Dataset
    folder: Path
    vectors: StudentVectors
    features: Features
    ranker: TrainedRanker

    def student(self) -> Student:
        return new_small_student(self.dataset)

    def tune(
        self,
        checkpoint: Path,
        config: TuneConfig = TUNE,
        student: Student | None = None,
        progress: Progress = quiet,
    ) -> Tuned:
        """The ranker tuned with a fresh student or the one given."""
        texts = student_texts(self.dataset)
        return finetune_ranker(
            self.ranker,
            self.features,
            student or self.student(),
            self.vectors,
            texts,
            config,
            checkpoint,
            "made",
            progress,
        )


def new_small_student(dataset: Dataset, seed: int = 0) -> Student:
    """The same small student every time."""
    return small_student((text for texts in student_texts(dataset) for text in texts.values()), seed)


def write_small_student(folder: Path, dataset: Dataset, seed: int = 0) -> StudentVectors:
    """Writes what `msd distill` would: a student, its vectors, which are returned, and the rehearsal that every third
    item was kept from, though it ended at the same weights."""
    student = new_small_student(dataset, seed)
    items, users = (
        LevelVectors(list(texts), encode_texts(student, list(texts.values()))) for texts in student_texts(dataset)
    )
    vectors = StudentVectors(save_student(student, folder), items, users)
    save_vectors(vectors, folder)
    save_untaught(folder, vectors.student, {}, items.ids[::3])
    return vectors


def untuned_of(dataset: Dataset, folder: Path) -> Untuned:
    """A ranker trained for one epoch, so that tuning has something left to learn."""
    vectors = write_small_student(folder / "student", dataset)
    features = build_features(dataset, fit_schema(dataset), vectors)
    ranker, _ = train_quickly(features, folder / "work", SHORT)
    return Untuned(dataset, folder / "student", vectors, features, ranker)
