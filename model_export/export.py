"""Export of a bundle: graphs, rows, proof, goldens, texts for people, manifest. Leaves nothing half-written."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch

from model_export.encoder import encoder_record, export_encoder
from model_export.errors import ExportError
from model_export.fast_graph import FastGraph, fastest_graph
from model_export.parity import Expected, Parity, check_parity, serving_requests
from model_export.precision.choice import RequestedPrecision, choose
from model_export.precision.evidence import Evidence
from model_export.recipe import Recipe
from model_export.rows import write_rows
from model_export.run import Run
from model_export.uncertainty import measure_uncertainty
from msd.contract.bundle import (
    ENCODER,
    GOLDENS,
    ITEM_WORDS,
    RANKER,
    RANKER_INT8,
    USER_WORDS,
    WORDS,
    Bundle,
    Manifest,
    bundle_id_of,
    file_entries,
    new_bundle,
    open_bundle,
    tolerance_key,
    write_manifest,
)
from msd.contract.files import atomic_file, sha256_file, write_bytes_atomic, write_text_atomic
from msd.contract.golden import write_goldens
from msd.contract.precision import RUNTIMES, PrecisionRecord
from msd.contract.pricing import formula_of
from msd.contract.reference import Reference, reference_of
from msd.dataset.texts import student_texts
from msd.ranker.arrays import Arrays
from msd.ranker.features import Features, build_features
from msd.step import fingerprint_of, is_done, mark_done
from msd.teachers.knowledge import Knowledge
from native.bundle_rows import BundleRows

TOLERANCE = 1e-5
_FORMAT = 12
_GOLDENS = 32
# Maximum users with texts for people: millions would go unread.
_USERS_WITH_WORDS = 10_000
# Another CPU rounds differently, and goldens are only a sample of the measured rows.
_MARGIN = 2.0
_SERVED_BY = (("onnxruntime", "cpu"), ("onnxruntime", "cuda"), ("openvino", "cpu"))

Progress = Callable[[str, int], None]


class _Options(NamedTuple):
    """Options of `export_bundle`."""

    requests: int
    precision: RequestedPrecision
    candidates: int
    uncertainty: bool
    like: Bundle | None


def export_bundle(
    made: Recipe,
    out: Path,
    replay: Path | None,
    requests: int,
    progress: Progress,
    precision: RequestedPrecision = "fp32",
    candidates: int = 200,
    explain: Path | None = None,
    uncertainty: bool = False,
    like: Path | None = None,
) -> bool:
    """Write the bundle `out`; return False if all outputs exist already.

    Also write the proved requests to `replay`, and to `explain` what the pass did to each node of the graph. `progress`
    gets the current step and the number of rows done. `candidates`: expected number per request, for timing graphs and
    precisions. `uncertainty`: add the uncertainty of scores. `like`: a bundle whose form of graph and precision are
    taken, whatever is faster now.
    """
    start = time.perf_counter()
    model = open_bundle(like, rows=False) if like else None
    precision = model.precision.chosen if model else precision
    known = [model.manifest.sha256] if model else []
    run = fingerprint_of(_FORMAT, made.fingerprint, requests, precision, candidates, uncertainty, *known)
    written = explain is None or explain.is_file()
    if written and is_done(out, run) and (replay is None or _is_replay_of(replay, open_bundle(out, rows=False))):
        return False
    with new_bundle(out) as folder:
        parity, fast = _fill(folder, made, _Options(requests, precision, candidates, uncertainty, model), progress)
        open_bundle(folder)
        if replay:
            write_text_atomic(replay, _replay_lines(parity))
        if explain:
            write_text_atomic(explain, json.dumps(fast.report.as_json(), indent=2) + "\n")
        mark_done(folder, run, time.perf_counter() - start)
    return True


def _fill(folder: Path, made: Recipe, options: _Options, progress: Progress) -> tuple[Parity, FastGraph]:
    """Write all files of the bundle; the manifest, which certifies the others, comes last."""
    progress("Tracing the graphs", 0)
    graph = made.graph()
    if made.student and "item" in made.adaptors:
        export_encoder(made.student, made.adaptors["item"], folder)
        if made.words:
            write_bytes_atomic(folder / WORDS, made.words.pack())
    progress("Packing rows", 0)
    with tempfile.TemporaryDirectory(dir=folder) as work:  # what is mapped outlives its name
        features = build_features(made.dataset, made.schema, made.vectors, arrays=Arrays(Path(work)))
    draft = _pack(made, folder, graph, features)
    evidence = Evidence(made.dataset, features, BundleRows.of(Bundle(folder, draft)))
    progress("Factorising the graph", 0)
    form = options.like.manifest.provenance["graph"]["served"] if options.like else None
    fast = fastest_graph(graph, options.candidates, evidence.request, form)
    chosen = choose(fast.graph, made.heads, options.precision, options.candidates, evidence, progress)
    encoder = None
    if (folder / ENCODER).exists():
        encoder = encoder_record(folder, list(student_texts(made.dataset)[0].values()))
        encoder = encoder.model_copy(update={"cold_ads": made.cold_ads(features)})
    progress("Measuring inputs and scores", 0)
    reference = _reference(made, evidence, chosen.run)
    uncertainty = measure_uncertainty(made.schema, evidence, chosen.run) if options.uncertainty else None
    if fast.graph != graph:
        draft = _pack(made, folder, fast.graph, features)
    if chosen.int8:
        write_bytes_atomic(folder / RANKER_INT8, chosen.int8)
    _write_words(folder, made)
    parity = check_parity(
        Bundle(folder, draft),
        Expected(made.scores, made.scored_by),
        serving_requests(made.dataset, features, options.requests),
        TOLERANCE,
        lambda done: progress("Proving the scores", done),
        {precision: run for precision, run in chosen.runs.items() if precision != "fp32"},
    )
    write_goldens(folder / GOLDENS, parity.sample(_GOLDENS))
    final = _final(draft, folder, made, parity, fast, chosen.record)
    measured = {"encoder": encoder, "reference": reference, "uncertainty": uncertainty}
    write_manifest(folder, final.model_copy(update=measured))
    return parity, fast


def _reference(made: Recipe, evidence: Evidence, run: Run) -> Reference:
    """Return the reference distributions of inputs and scores, from valid rows."""
    rows = list(evidence.some())
    scores = np.concatenate([run(tensors) for tensors in rows], axis=1)
    return reference_of(made.schema, rows, dict(zip(made.heads, scores, strict=True)))


def _pack(made: Recipe, folder: Path, graph: bytes, features: Features) -> Manifest:
    """Write the graph and the rows, which carry the bundle ID derived from it."""
    write_bytes_atomic(folder / RANKER, graph)
    draft = _manifest(made, folder)
    write_rows(folder, made.adaptors, made.words, features, draft.bundle_id, draft.created_at)
    return draft


def _manifest(made: Recipe, folder: Path) -> Manifest:
    weights = {name: sha256_file(folder / name) for name in (RANKER, ENCODER) if (folder / name).exists()}
    bundle_id = bundle_id_of(made.schema, weights)
    dataset = {"name": made.dataset.config.name, "fingerprint": made.dataset.fingerprint}
    return Manifest(
        bundle_id=bundle_id,
        model_version=f"{dataset['name']}-{bundle_id[:8]}",
        created_at=time.time(),
        feature_schema=made.schema,
        heads=tuple(made.heads),
        openrtb=made.dataset.config.openrtb and made.dataset.config.openrtb.mapping,
        pricing=dict(formula_of(made.heads)) if "pcvr" in made.heads else None,
        files={},
        tolerances={},
        calibration=made.calibration,
        metrics=made.metrics,
        provenance={"dataset": dataset, **made.provenance, "versions": _versions()},
    )


def _versions() -> dict[str, str]:
    try:
        own = version("msd-ctr")
    except PackageNotFoundError:  # run from a checkout without installation
        own = "0"
    # By module, because several distributions provide onnxruntime.
    return {"msd-ctr": own, **{module.__name__: module.__version__ for module in (torch, onnxruntime, np)}}


def _final(
    draft: Manifest, folder: Path, made: Recipe, parity: Parity, fast: FastGraph, precision: PrecisionRecord
) -> Manifest:
    lines = hashlib.sha256(_replay_lines(parity).encode()).hexdigest()
    proved = {
        "against": made.scored_by,
        "requests": len(parity.requests),
        "max_abs_diff": parity.max_abs_diff,
        "replay_sha256": lines,
    }
    provenance = {**draft.provenance, "parity": proved, "graph": fast.as_json()}
    return draft.model_copy(
        update={
            "files": file_entries(folder),
            "tolerances": _tolerances(parity),
            "precision": precision,
            "provenance": provenance,
        }
    )


def _tolerances(parity: Parity) -> dict[str, float]:
    # Proved here by ONNX Runtime on a CPU. A service with another runtime checks itself against the goldens.
    found = {tolerance_key(*one, "fp32"): TOLERANCE for one in _SERVED_BY}
    for precision, difference in parity.lower_abs_diff.items():
        if not np.isfinite(difference):
            raise ExportError(f"{precision}: a score is not a finite number; export with --precision fp32")
        found[tolerance_key(RUNTIMES[precision], "cpu", precision)] = max(TOLERANCE, _MARGIN * difference)
    return found


def _write_words(folder: Path, made: Recipe) -> None:
    titles = dict(made.dataset.items.select("item_id", "title").iter_rows())
    known = made.knowledge.items
    items = ({"id": one, "title": title, **_words(known.get(one))} for one, title in titles.items())
    _write_lines(folder / ITEM_WORDS, items)
    if made.knowledge.users:
        users = islice(made.knowledge.users.items(), _USERS_WITH_WORDS)
        _write_lines(folder / USER_WORDS, ({"id": one, **_words(knowledge)} for one, knowledge in users))


def _words(known: Knowledge | None) -> dict[str, Any]:
    """Return the teacher's words, if any, and whether it recognised the item."""
    if known is None:
        return {}
    words = {"explicit": known.explicit, "implicit": known.implicit, "tags": list(known.tags)}
    return words if known.known else {**words, "known": False}


def _write_lines(path: Path, documents: Iterable[dict[str, Any]]) -> None:
    with atomic_file(path) as file:
        for document in documents:
            file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")


def _replay_lines(parity: Parity) -> str:
    lines = [json.dumps({"request": golden.request, "expected": golden.expected}) for golden in parity.requests]
    return "\n".join(lines) + "\n"


def _is_replay_of(path: Path, bundle: Bundle) -> bool:
    proved: dict[str, Any] = bundle.manifest.provenance["parity"]
    return path.is_file() and sha256_file(path) == proved["replay_sha256"]
