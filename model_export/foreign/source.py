"""A third-party ONNX ranker, with its training data, as the source of a bundle.

Its scores are those of its own graph with its own inputs; the bundle's graph is compared with them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from model_export.errors import ExportError
from model_export.foreign.bind import Binding, bind_inputs, head_outputs, spliced_graph
from model_export.foreign.read import read_model
from model_export.foreign.table import with_click_probability, with_named_inputs
from model_export.recipe import Recipe
from model_export.run import open_session
from msd.contract.schema import FeatureSchema
from msd.contract.tensors import Tensors
from msd.contract.words import BagOfWords
from msd.dataset.load import Dataset, load_dataset
from msd.ranker.adaptor import Adaptors
from msd.ranker.schema_fit import fit_schema
from msd.ranker.tensor_folder import TensorFolderError, TensorRecord, load_adaptors, load_record
from msd.step import fingerprint_of
from msd.student.encoder import Student, load_student
from msd.student.record import VECTOR_DIM
from msd.student.vectors import StudentVectors, load_vectors, load_words, no_vectors
from msd.teachers.knowledge import KnowledgeBase


def recipe_of(
    model: ModelProto,
    bindings: list[Binding],
    heads: Mapping[str, str],
    dataset: Dataset,
    schema: FeatureSchema,
    vectors: StudentVectors,
    adaptors: Adaptors,
    student: Student | None,
    bag: BagOfWords | None = None,
) -> Recipe:
    """Return the recipe of the bundle of a graph with the sources of its rows; the schema names the graph's inputs."""
    content = hashlib.sha256(model.SerializeToString()).hexdigest()
    return Recipe(
        dataset=dataset,
        schema=schema,
        heads=tuple(heads),
        graph=lambda: spliced_graph(model, bindings, schema, heads).SerializeToString(),
        # Its behaviour with several users at once is unknown.
        scores=_Scores(model, bindings, heads),
        scored_by="the graph given",
        vectors=vectors,
        adaptors=adaptors,
        student=student,
        words=adaptors.item_words(bag),
        cold_ads=lambda features: None,
        knowledge=KnowledgeBase({}, {}),
        calibration={},
        metrics={},
        provenance={"onnx": content, "student": vectors.student or None},
        fingerprint=fingerprint_of(
            content, dataset.fingerprint, schema.schema_hash, vectors.student or None, bag is not None, dict(heads)
        ),
    )


def load_foreign(
    onnx_file: Path,
    dataset: Path,
    tensors: Path | None,
    student: Path | None,
    heads: Mapping[str, str],
    columns: Sequence[str] = (),
) -> Recipe:
    """Return the recipe of a graph whose inputs are named by the schema of `dataset`, or of the `msd tensors` folder;
    `columns` are the names of a single input's columns.

    Without that folder there are no vectors. Raises MsdError if the inputs do not belong together, and ExportError if
    the graph cannot be served.
    """
    data = load_dataset(dataset)
    if tensors is None:
        schema = fit_schema(data, semantics=False)
        vectors, adaptors, encoder, bag = no_vectors(), Adaptors(schema, VECTOR_DIM), None, None
    else:
        record = load_record(tensors)
        if record.dataset != data.fingerprint:
            raise TensorFolderError(
                f"{tensors}: is of another state of the dataset than {dataset} is in; run `msd tensors`, train and "
                "export again"
            )
        schema, adaptors = record.feature_schema, load_adaptors(tensors, record)
        vectors, encoder = _student(record, tensors, student)
        bag = load_words(student) if encoder and student else None
    model = read_model(onnx_file)
    try:
        model = with_click_probability(with_named_inputs(model, columns, schema) if columns else model)
        bindings, outputs = bind_inputs(model, schema), head_outputs(model, heads)
    except ExportError as error:
        raise ExportError(f"{onnx_file}: {error}") from None
    return recipe_of(model, bindings, outputs, data, schema, vectors, adaptors, encoder, bag)


def _student(record: TensorRecord, tensors: Path, student: Path | None) -> tuple[StudentVectors, Student | None]:
    if record.student is None:
        return no_vectors(), None
    if student is None:
        raise TensorFolderError(f"{tensors}: has vectors of a student; say where the student is with --student")
    vectors = load_vectors(student)
    if vectors.student != record.student:
        raise TensorFolderError(
            f"{tensors}: has the vectors of another student than {student}; run `msd tensors` again"
        )
    return vectors, load_student(student)


class _Scores:
    """The graph itself, run with its own inputs."""

    def __init__(self, model: ModelProto, bindings: list[Binding], heads: Mapping[str, str]) -> None:
        self._bindings, self._heads = bindings, heads
        try:
            self._session = open_session(model.SerializeToString())
        except Exception as error:  # onnxruntime raises a type of its own for each status, with no common base
            raise ExportError(f"onnxruntime cannot load the graph: {error}") from None

    def __call__(self, tensors: Tensors) -> NDArray[np.float32]:
        """Return scores [H, N]. Raises ExportError for anything but a probability per candidate."""
        count = max(len(tensors[binding.columns.tensor.name]) for binding in self._bindings)
        feed = {binding.name: binding.value(tensors, count) for binding in self._bindings}
        try:
            found = self._session.run(list(self._heads.values()), feed)
        except Exception as error:
            raise ExportError(f"the graph cannot score a request of {count} candidates: {error}") from None
        return np.stack([_checked(head, one, count) for head, one in zip(self._heads, found, strict=True)])


def _checked(head: str, scores: NDArray[Any], count: int) -> NDArray[np.float32]:
    if scores.size != count:
        raise ExportError(
            f"the head {head!r} has the shape {list(scores.shape)} for {count} candidates; it must be one number each"
        )
    flat = scores.reshape(-1).astype(np.float32)
    if not (np.isfinite(flat) & (flat >= 0) & (flat <= 1)).all():
        worst = flat[np.argmax(np.where(np.isfinite(flat), np.abs(flat - 0.5), np.inf))]
        raise ExportError(
            f"the head {head!r} scores {worst:g} on a real row, which is not a probability; if it is a logit, end the "
            "graph with a sigmoid"
        )
    return flat
