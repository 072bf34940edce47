"""Inputs of a bundle of MSD's own ranker, loaded from the folders of earlier steps and checked to match."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_export.ranker import heads_of, ranker_graph, torch_scores
from model_export.recipe import Recipe
from msd.contract.bundle import HOW_SURE
from msd.contract.errors import MsdError
from msd.contract.files import sha256_file
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.evaluation.degradation import measure_cold_ads
from msd.ranker.batch import TrainedRanker
from msd.step import fingerprint_of
from msd.student.encoder import Student, load_student
from msd.student.vectors import LevelVectors, StudentVectors, load_vectors, no_vectors, untaught_items
from msd.teachers.knowledge import KNOWLEDGE_FILES, KnowledgeBase, load_knowledge, load_record
from msd.training.folder import WEIGHTS_FILE, ModelFolderError, RankerRecord, load_ranker


@dataclass(frozen=True)
class ExportInputs:
    """A trained ranker, its training inputs, and its evaluation."""

    dataset: Dataset
    knowledge: KnowledgeBase
    teacher: dict[str, Any] | None
    student: Student | None
    vectors: StudentVectors
    untaught: LevelVectors
    trained: TrainedRanker
    record: RankerRecord
    evaluation: dict[str, Any]
    fingerprint: str

    def recipe(self) -> Recipe:
        """Return the recipe of its bundle, with torch's scores."""
        trained = self.trained
        return Recipe(
            dataset=self.dataset,
            schema=trained.schema,
            heads=heads_of(trained),
            graph=lambda: ranker_graph(trained),
            scores=torch_scores(trained),
            scored_by="torch",
            vectors=self.vectors,
            adaptors=trained.adaptors,
            student=self.student,
            cold_ads=lambda features: measure_cold_ads(trained, features, self.untaught, Part.VALID),
            knowledge=self.knowledge,
            calibration=_curve(trained),
            metrics=self.evaluation,
            provenance={
                "teacher": self.teacher,
                "student": self.vectors.student or None,
                "training": self.record.training,
                "choice": self.record.choice.model_dump(mode="json") if self.record.choice else None,
            },
            fingerprint=self.fingerprint,
        )


def load_inputs(
    dataset: Path, knowledge: Path | None, student: Path | None, model: Path, evaluation: Path | None
) -> ExportInputs:
    """Load the folders of the earlier steps. `knowledge`: for people. `student`: of the model's training.

    Raises MsdError if they are not from the same run.
    """
    data, vectors = load_dataset(dataset), load_vectors(student) if student else no_vectors()
    trained, record = load_ranker(model)
    if record.dataset != data.fingerprint:
        raise ModelFolderError(
            f"{model}: was trained on another state of the dataset than {dataset} is in; train again"
        )
    if record.student and not student:
        raise ModelFolderError(f"{model}: was trained with a student; name its folder before that of the model")
    if not record.is_of(data.fingerprint, vectors.student):
        raise ModelFolderError(f"{model}: was trained with the vectors of another student than {student}; train again")
    teacher = load_record(knowledge).model_dump(mode="json") if knowledge else None
    figures = _read_evaluation(evaluation, model.name)
    untaught = untaught_items(student, student_texts(data)[0]) if student else no_vectors().items
    return ExportInputs(
        dataset=data,
        knowledge=load_knowledge(knowledge, data.config.name) if knowledge else KnowledgeBase({}, {}),
        teacher=teacher,
        student=load_student(student) if student else None,
        vectors=vectors,
        untaught=untaught,
        trained=trained,
        record=record,
        evaluation=figures,
        fingerprint=fingerprint_of(
            data.fingerprint,
            vectors.student,
            untaught.ids,
            sha256_file(model / WEIGHTS_FILE),
            teacher,
            [sha256_file(knowledge / name) for name in KNOWLEDGE_FILES] if knowledge else [],
            figures,
        ),
    )


def _curve(trained: TrainedRanker) -> dict[str, Any]:
    curve = trained.calibrator.curve()
    return {"knots": curve.knots.tolist(), "values": curve.values.tolist(), "outer_slope": curve.outer_slope}


def _read_evaluation(path: Path | None, name: str) -> dict[str, Any]:
    """Return metrics by model; for `name`, also how often a difference of two scores was right, if measured."""
    if path is None:
        return {}
    try:
        models = json.loads(path.read_text("utf-8"))["models"]
        found = {one: dict(figures["metrics"]) for one, figures in models.items()}
        if sure := models.get(name, {}).get(HOW_SURE):
            found[name][HOW_SURE] = sure
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MsdError(f"{path}: not what `msd evaluate` writes ({error})") from None
