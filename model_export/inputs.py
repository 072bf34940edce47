"""Recipe of a bundle of MSD's own ranker, from the folders of earlier steps, which are checked to match."""

import json
from pathlib import Path
from typing import Any

from model_export.ranker import heads_of, ranker_graph, torch_scores
from model_export.recipe import Recipe
from msd.contract.bundle import HOW_SURE
from msd.contract.errors import MsdError
from msd.contract.files import sha256_file
from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.evaluation.degradation import measure_cold_ads
from msd.ranker.batch import TrainedRanker
from msd.step import fingerprint_of
from msd.student.encoder import load_student
from msd.student.vectors import load_vectors, load_words, no_vectors, untaught_items
from msd.teachers.knowledge import KNOWLEDGE_FILES, KnowledgeBase, load_knowledge, load_record
from msd.training.folder import WEIGHTS_FILE, ModelFolderError, load_ranker


def own_recipe(
    dataset: Path, knowledge: Path | None, student: Path | None, model: Path, evaluation: Path | None
) -> Recipe:
    """Return the recipe of a trained ranker's bundle, with torch's scores. `knowledge`: for people. `student`: of the
    model's training.

    Raises MsdError if the folders are not from the same run.
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
    words = trained.adaptors.item_words(load_words(student) if student else None)
    untaught = untaught_items(student, student_texts(data)[0]) if student else no_vectors().items
    return Recipe(
        dataset=data,
        schema=trained.schema,
        heads=heads_of(trained),
        graph=lambda: ranker_graph(trained),
        scores=torch_scores(trained),
        scored_by="torch",
        vectors=vectors,
        adaptors=trained.adaptors,
        student=load_student(student) if student else None,
        words=words,
        cold_ads=lambda features: measure_cold_ads(trained, features, untaught, Part.VALID),
        knowledge=load_knowledge(knowledge, data.config.name) if knowledge else KnowledgeBase({}, {}),
        calibration=_curve(trained),
        metrics=figures,
        provenance={
            "teacher": teacher,
            "student": vectors.student or None,
            "training": record.training,
            "choice": record.choice.model_dump(mode="json") if record.choice else None,
        },
        fingerprint=fingerprint_of(
            data.fingerprint,
            vectors.student,
            untaught.ids,
            words is not None,
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
    """Return metrics by model; for `name`, also how often a difference of two scores was right, if measured. Raises
    MsdError if its scores are worse than a constant."""
    if path is None:
        return {}
    try:
        models = json.loads(path.read_text("utf-8"))["models"]
        found = {one: dict(figures["metrics"]) for one, figures in models.items()}
        if sure := models.get(name, {}).get(HOW_SURE):
            found[name][HOW_SURE] = sure
        entropy = found.get(name, {}).get("normalised_entropy", 0.0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MsdError(f"{path}: not what `msd evaluate` writes ({error})") from None
    if entropy >= 1:
        raise MsdError(
            f"{name}: its logloss on test rows is {entropy:.3f} × that of a constant, so it is not exported. Look at "
            f"{path} for the reasons, and bring more rows; to export it all the same, leave out --evaluation"
        )
    return found
