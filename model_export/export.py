"""The export, top to bottom: graphs, rows, proof, goldens, words for people, manifest. Nothing is left half-written."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from model_export.encoder import export_encoder
from model_export.errors import ExportError
from model_export.fast_graph import FastGraph, fastest_graph
from model_export.parity import BundleRows, Parity, check_parity
from model_export.precision.choice import Asked, choose
from model_export.precision.evidence import Evidence
from model_export.ranker import HEADS, ranker_graph
from model_export.rows import write_rows
from model_export.serving_view import serving_requests
from msd.contract.bundle import (
    ENCODER,
    GOLDENS,
    ITEM_WORDS,
    RANKER,
    Bundle,
    Manifest,
    bundle_id_of,
    file_entries,
    new_bundle,
    open_bundle,
    tolerance_key,
    write_manifest,
)
from msd.contract.errors import MsdError
from msd.contract.files import atomic_file, sha256_file, write_bytes_atomic, write_text_atomic
from msd.contract.golden import write_goldens
from msd.contract.precision import RUNTIMES, Precision, PrecisionRecord
from msd.dataset.load import Dataset, load_dataset
from msd.ranker.batch import TrainedRanker
from msd.ranker.features import Features, build_features
from msd.ranker.folder import WEIGHTS_FILE, ModelError, RankerRecord, load_ranker, student_of, vectors_of
from msd.step import fingerprint_of, is_done, mark_done
from msd.student.encoder import Student, load_student
from msd.student.vectors import StudentVectors, load_vectors
from msd.teachers.knowledge import KNOWLEDGE_FILES, KnowledgeBase, load_knowledge, load_record

TOLERANCE = 1e-5
_FORMAT = 2
_GOLDENS = 32
# Another CPU rounds in another order, and goldens are some of the rows that the difference was measured on.
_MARGIN = 2.0
_SERVED_BY = (("onnxruntime", "cpu"), ("onnxruntime", "cuda"), ("openvino", "cpu"))


@dataclass(frozen=True)
class Inputs:
    """All that a bundle is made of."""

    dataset: Dataset
    knowledge: KnowledgeBase
    teacher: dict[str, Any]
    student: Student
    vectors: StudentVectors
    trained: TrainedRanker
    record: RankerRecord
    evaluation: dict[str, Any]
    fingerprint: str


def load_inputs(dataset: Path, knowledge: Path, student: Path, model: Path, evaluation: Path | None) -> Inputs:
    """Loads the folders of the earlier steps. Raises MsdError if they are not of one and the same run."""
    data, vectors = load_dataset(dataset), load_vectors(student)
    trained, record = load_ranker(model)
    if record.dataset != data.fingerprint:
        raise ModelError(f"{model}: was trained on another state of the dataset than {dataset} is in; train again")
    if record.student != vectors.student:
        raise ModelError(f"{model}: was trained with the vectors of another student than {student}; train again")
    teacher = load_record(knowledge)
    if teacher.dataset != data.config.name:
        raise MsdError(
            f"{knowledge}: is about the dataset {teacher.dataset!r}, not {data.config.name!r}; run `msd teach` again"
        )
    figures = _read_evaluation(evaluation)
    return Inputs(
        dataset=data,
        knowledge=load_knowledge(knowledge),
        teacher=teacher.model_dump(mode="json"),
        student=load_student(student_of(model, record, student)),
        vectors=vectors_of(model, record, vectors),
        trained=trained,
        record=record,
        evaluation=figures,
        fingerprint=fingerprint_of(
            _FORMAT,
            data.fingerprint,
            vectors.student,
            record.own_student,
            sha256_file(model / WEIGHTS_FILE),
            teacher.model_dump(mode="json"),
            [sha256_file(knowledge / name) for name in KNOWLEDGE_FILES],
            figures,
        ),
    )


def export_bundle(
    inputs: Inputs,
    out: Path,
    replay: Path | None,
    requests: int,
    progress: Callable[[str, int], None],
    precision: Asked = "fp32",
    candidates: int = 200,
    explain: Path | None = None,
) -> bool:
    """Writes the bundle `out`, the proved requests to `replay`, and to `explain` what the pass did to each node of the
    graph; False if all were there already.

    `progress` hears what is being done, and how many rows are done so far. `candidates`: as many are expected in a
    request, when graphs and precisions are timed.
    """
    start = time.perf_counter()
    run = fingerprint_of(inputs.fingerprint, requests, precision, candidates)
    written = explain is None or explain.is_file()
    if written and is_done(out, run) and (replay is None or _is_replay_of(replay, open_bundle(out, rows=False))):
        return False
    trained = inputs.trained
    with new_bundle(out) as folder:
        progress("Tracing the graphs", 0)
        graph = ranker_graph(trained)
        if "item" in trained.adaptors:
            export_encoder(inputs.student, trained.adaptors["item"], folder)
        progress("Packing rows", 0)
        features = build_features(inputs.dataset, trained.schema, inputs.vectors)
        draft = _pack(inputs, folder, graph, features)
        evidence = Evidence(inputs.dataset, features, BundleRows(Bundle(folder, draft)))
        progress("Factorising the graph", 0)
        fast = fastest_graph(graph, trained.schema, candidates, evidence.request)
        chosen = choose(fast.graph, precision, candidates, evidence, progress)
        if chosen.graph != graph:
            draft = _pack(inputs, folder, chosen.graph, features)
        _write_words(folder / ITEM_WORDS, inputs)
        asked = serving_requests(inputs.dataset, features, requests)
        parity = check_parity(
            Bundle(folder, draft),
            trained,
            asked,
            TOLERANCE,
            lambda done: progress("Proving the scores", done),
            fast.graph,
            None if chosen.record.chosen == "fp32" else chosen.run,
        )
        write_goldens(folder / GOLDENS, parity.goldens[:: max(1, len(parity.goldens) // _GOLDENS)][:_GOLDENS])
        write_manifest(folder, _final(draft, folder, parity, fast, chosen.record))
        if replay:
            write_text_atomic(replay, _replay_lines(parity))
        if explain:
            write_text_atomic(explain, json.dumps(fast.report.as_json(), indent=2) + "\n")
        mark_done(folder, run, time.perf_counter() - start)
    return True


def _pack(inputs: Inputs, folder: Path, graph: bytes, features: Features) -> Manifest:
    """Writes the graph and the rows, which carry the identity that it gives them."""
    write_bytes_atomic(folder / RANKER, graph)
    draft = _manifest(inputs, folder)
    write_rows(folder, inputs.trained.adaptors, features, draft.bundle_id, draft.created_at)
    return draft


def _manifest(inputs: Inputs, folder: Path) -> Manifest:
    weights = {name: sha256_file(folder / name) for name in (RANKER, ENCODER) if (folder / name).exists()}
    bundle_id = bundle_id_of(inputs.trained.schema, weights)
    return Manifest(
        bundle_id=bundle_id,
        model_version=f"{inputs.dataset.config.name}-{bundle_id[:8]}",
        created_at=time.time(),
        feature_schema=inputs.trained.schema,
        heads=HEADS,
        files={},
        tolerances={},
        calibration=_curve(inputs.trained),
        metrics=inputs.evaluation,
        provenance={
            "dataset": {"name": inputs.dataset.config.name, "fingerprint": inputs.dataset.fingerprint},
            "teacher": inputs.teacher,
            "student": inputs.vectors.student,
            "training": inputs.record.training,
            "versions": _versions(),
        },
    )


def _versions() -> dict[str, str]:
    try:
        own = version("msd-ctr")
    except PackageNotFoundError:  # run from a checkout that is not installed
        own = "0"
    # By module, because onnxruntime comes from distributions of several names.
    return {"msd-ctr": own, **{module.__name__: module.__version__ for module in (torch, onnxruntime, np)}}


def _curve(trained: TrainedRanker) -> dict[str, Any]:
    curve = trained.calibrator.curve()
    return {"knots": curve.knots.tolist(), "values": curve.values.tolist(), "outer_slope": curve.outer_slope}


def _final(draft: Manifest, folder: Path, parity: Parity, fast: FastGraph, precision: PrecisionRecord) -> Manifest:
    lines = hashlib.sha256(_replay_lines(parity).encode()).hexdigest()
    proved = {"requests": len(parity.goldens), "max_abs_diff": parity.max_abs_diff, "replay_sha256": lines}
    provenance = {**draft.provenance, "parity": proved, "graph": fast.as_json()}
    return draft.model_copy(
        update={
            "files": file_entries(folder),
            "tolerances": _tolerances(precision.chosen, parity),
            "precision": precision,
            "provenance": provenance,
        }
    )


def _tolerances(precision: Precision, parity: Parity) -> dict[str, float]:
    # Proved here by onnxruntime on a CPU; a service that runs it otherwise proves itself by the goldens.
    plain = {tolerance_key(*one, "fp32"): TOLERANCE for one in _SERVED_BY}
    if precision == "fp32":
        return plain
    if not np.isfinite(parity.served_abs_diff):
        raise ExportError(f"{precision}: a score is not a finite number; export with --precision fp32")
    own = {tolerance_key(RUNTIMES[precision], "cpu", precision): max(TOLERANCE, _MARGIN * parity.served_abs_diff)}
    # In bf16 the graph is the one in fp32, and may be run as such.
    return own if precision == "int8" else {**plain, **own}


def _write_words(path: Path, inputs: Inputs) -> None:
    titles = dict(inputs.dataset.items.select("item_id", "title").iter_rows())
    with atomic_file(path) as file:
        for item_id, title in titles.items():
            words: dict[str, Any] = {"id": item_id, "title": title}
            if known := inputs.knowledge.items.get(item_id):
                words |= {"explicit": known.explicit, "implicit": known.implicit, "tags": list(known.tags)}
            file.write(json.dumps(words, ensure_ascii=False).encode() + b"\n")


def _replay_lines(parity: Parity) -> str:
    lines = [json.dumps({"request": golden.request, "expected": golden.expected}) for golden in parity.goldens]
    return "\n".join(lines) + "\n"


def _is_replay_of(path: Path, bundle: Bundle) -> bool:
    proved: dict[str, Any] = bundle.manifest.provenance["parity"]
    return path.is_file() and sha256_file(path) == proved["replay_sha256"]


def _read_evaluation(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        models = json.loads(path.read_text("utf-8"))["models"]
        return {name: figures["metrics"] for name, figures in models.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MsdError(f"{path}: not what `msd evaluate` writes ({error})") from None
