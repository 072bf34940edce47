"""The export is whole or absent: verified when written, skipped when done, refused when its inputs do not fit."""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from model_export.errors import ExportError
from model_export.export import TOLERANCE, export_bundle
from model_export.inputs import own_recipe
from msd.__main__ import main
from msd.contract.bundle import (
    ENCODER,
    GOLDENS,
    ITEM_WORDS,
    MARKER,
    RANKER,
    TOKENIZER,
    USER_WORDS,
    file_entries,
    open_bundle,
)
from msd.contract.errors import MsdError
from msd.contract.golden import read_goldens
from msd.contract.instructions import adds_int8_exactly, cpu_instructions
from msd.contract.precision import PrecisionRecord
from msd.contract.reference import dense_inputs
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.evaluation.degradation import measure_cold_ads
from msd.step import STEP_FILE
from msd.student.vectors import StudentVectors, load_vectors, save_vectors, untaught_items
from msd.training.folder import ModelFolderError
from native.bundle_rows import BundleRows
from service.runtimes.onnxruntime import OnnxRuntime
from tests.dataset.tiny import write_tiny_dataset
from tests.model_export.conftest import Exported, Run, quiet
from tests.ranker.made import Cut


def _cut_at_once(step: str, done: int) -> None:
    raise Cut


@dataclass(frozen=True)
class Brief:
    """The plain bundle again, proved on five requests, and the report of its graph."""

    bundle: Path
    replay: Path
    report: Path


@pytest.fixture(scope="module")
def brief(plain: Exported, tmp_path_factory: pytest.TempPathFactory) -> Brief:
    folder = tmp_path_factory.mktemp("brief")
    made = Brief(folder / "bundle", folder / "replay.jsonl", folder / "report.json")
    assert export_bundle(plain.inputs, made.bundle, made.replay, 5, quiet, explain=made.report)
    return made


def test_bundle_verifies_in_full(exported: Exported) -> None:
    folder = exported.bundle.folder
    (folder / MARKER).unlink(missing_ok=True)
    manifest = open_bundle(folder).manifest
    assert manifest.files == file_entries(folder)
    assert set(manifest.files) >= {ENCODER, TOKENIZER, ITEM_WORDS}
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*manifest.files, "manifest.json", MARKER, STEP_FILE]
    )
    assert manifest.model_version == f"tiny-{manifest.bundle_id[:8]}"
    assert manifest.openrtb is not None
    assert manifest.openrtb.features == {"device": "device.devicetype", "hour": "ext.local_hour"}
    assert manifest.tolerances == {
        "onnxruntime-cpu-fp32": 1e-5,
        "onnxruntime-cuda-fp32": 1e-5,
        "openvino-cpu-fp32": 1e-5,
    }
    assert manifest.precision == PrecisionRecord()


def test_manifest_has_provenance(exported: Exported) -> None:
    provenance = exported.bundle.manifest.provenance
    assert provenance["dataset"] == {"name": "tiny", "fingerprint": exported.inputs.dataset.fingerprint}
    assert provenance["teacher"]["teacher"] == "tiny"
    assert provenance["student"] == exported.inputs.vectors.student
    assert provenance["parity"]["requests"] == 180
    assert set(provenance["versions"]) == {"msd-ctr", "torch", "onnxruntime", "numpy"}


def test_manifest_has_cold_ads(run: Run, exported: Exported, plain: Exported) -> None:
    encoder = exported.bundle.manifest.encoder
    assert encoder is not None
    found = encoder.cold_ads
    assert found is not None
    untaught = untaught_items(run.student, student_texts(exported.inputs.dataset)[0])
    assert found == measure_cold_ads(exported.trained, exported.features, untaught, Part.VALID)
    assert 0 < found.items < exported.inputs.dataset.items.height / 2
    assert exported.bundle.encoder_pays == found.pay == (found.ci95 is not None and found.ci95[0] > 0)
    assert not plain.bundle.encoder_pays
    assert not {ENCODER, TOKENIZER} & set(plain.bundle.manifest.files)


def test_manifest_has_reference_distributions(exported: Exported) -> None:
    manifest, dataset = exported.bundle.manifest, exported.inputs.dataset
    assert manifest.reference is not None
    assert manifest.reference.inputs.keys() == dense_inputs(manifest.feature_schema).keys()
    assert list(manifest.reference.scores) == list(manifest.heads)
    valid = int((split_events(dataset.events, dataset.config) == Part.VALID).sum())
    assert {one.rows for one in manifest.reference.inputs.values()} == {valid}
    price = manifest.reference.inputs["price"]
    assert 0 < price.shares[0] < 0.5
    assert len(price.edges) > 5
    shares = np.array(manifest.reference.scores["pctr"].shares)
    assert shares[0] == 0
    assert np.all(np.abs(shares[1:] - 0.1) < 0.03)


def test_replay_has_every_proved_request(exported: Exported) -> None:
    lines = [json.loads(line) for line in exported.replay.read_text().splitlines()]
    assert len(lines) == 180
    for line in lines:
        assert line.keys() == {"request", "expected"}
        assert len(line["expected"]["pctr"]) == len(line["request"]["candidates"]["id"])


def test_int8_bundle_is_proved_in_both_precisions(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 is proved first."""
    monkeypatch.setattr("model_export.precision.choice.AUC_BOUND", 1.0)  # 180 rows are too few to tell
    monkeypatch.setattr("model_export.fast_graph.pick", lambda _: "passed")  # both exports, whichever form ran faster
    out = tmp_path / "bundle"
    if not adds_int8_exactly(cpu_instructions()):
        with pytest.raises(ExportError, match="has no VNNI"):
            export_bundle(exported.inputs, out, None, 60, quiet, "int8", 20)
        assert not out.exists()
        return
    export_bundle(exported.inputs, out, None, 60, quiet, "int8", 20)
    bundle = open_bundle(out)
    assert bundle.precision.chosen == "int8"
    assert set(bundle.manifest.tolerances) - set(exported.bundle.manifest.tolerances) == {"onnxruntime-cpu-int8"}
    assert bundle.manifest.provenance["parity"]["max_abs_diff"] <= TOLERANCE
    runtime, rows = OnnxRuntime(bundle, "cpu", 1, "int8"), BundleRows.of(bundle)
    differences = []
    for golden in read_goldens(bundle.path(GOLDENS)):
        differences.append(np.abs(runtime.run(rows.tensors(golden))["pctr"] - golden.expected["pctr"]).max())
    # How far int8 is off depends on the CPU's kernels; the bundle declares twice the largest difference measured.
    assert 1e-5 < max(differences) <= bundle.manifest.tolerances[runtime.engine.key] / 1.99
    assert not export_bundle(exported.inputs, out, None, 60, quiet, "int8", 20)
    assert export_bundle(exported.inputs, out, None, 60, quiet)
    again = open_bundle(out)
    # The rows of both are the same, and their manifests differ.
    assert (again.precision.chosen, again.bundle_id) == ("fp32", bundle.bundle_id)
    assert again.manifest.sha256 != bundle.manifest.sha256


def test_refused_precision_keeps_previous_bundle(
    plain: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.precision.choice.AUC_BOUND", -1.0)
    out = tmp_path / "bundle"
    shutil.copytree(plain.bundle.folder, out)
    loses = "int8 does not score as fp32 does on valid rows: AUC may be lower by"
    refusal = loses if adds_int8_exactly(cpu_instructions()) else "has no VNNI"
    with pytest.raises(ExportError, match=refusal):
        export_bundle(plain.inputs, out, None, 10, quiet, "int8", 20)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert open_bundle(out).bundle_id == plain.bundle.bundle_id


def test_command_shows_tried_precisions(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", *map(str, (run.dataset, run.knowledge, run.student, run.plain, tmp_path / "bundle"))]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--requests", "5", "--precision", "auto", "--candidates", "30"])
    output = " ".join(capsys.readouterr().out.split())
    assert "chosen; 180 valid rows, 30 candidates" in output
    assert all(f" {precision} " in output for precision in ("fp32", "int8", "bf16"))
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--precision", "fp8"])


def test_words_of_every_item(exported: Exported) -> None:
    words = {one["id"]: one for one in map(json.loads, exported.bundle.path(ITEM_WORDS).read_text().splitlines())}
    assert list(words) == exported.inputs.dataset.items["item_id"].to_list()
    assert words["80"] == {"id": "80", "title": None}
    assert set(words["1"]) == {"id", "title", "explicit", "implicit", "tags"}
    guessed = {one for one, known in exported.inputs.knowledge.items.items() if not known.known}
    assert {one for one, line in words.items() if line.get("known") is False} == guessed != set()
    users = [json.loads(line) for line in exported.bundle.path(USER_WORDS).read_text().splitlines()]
    assert [user["id"] for user in users] == list(exported.inputs.knowledge.users)
    assert all(set(user) == {"id", "explicit", "implicit", "tags"} for user in users)


def test_finished_export_is_skipped(plain: Exported, brief: Brief, tmp_path: Path) -> None:
    out, replay = tmp_path / "bundle", tmp_path / "replay.jsonl"
    shutil.copytree(plain.bundle.folder, out)
    shutil.copy(plain.replay, replay)
    before = (out / RANKER).stat().st_mtime_ns
    assert not export_bundle(plain.inputs, out, replay, 2_400, quiet)
    assert not export_bundle(plain.inputs, out, None, 2_400, quiet)
    assert (out / RANKER).stat().st_mtime_ns == before
    replay.unlink()
    assert export_bundle(plain.inputs, out, replay, 2_400, quiet)
    assert replay.read_bytes() == plain.replay.read_bytes()
    # Equal inputs give equal graphs, unless another form of it ran faster now; so the rows of one fit the other.
    again = open_bundle(out)
    forms = {one.manifest.provenance["graph"]["served"] for one in (again, plain.bundle)}
    assert len(forms) > 1 or again.bundle_id == plain.bundle.bundle_id
    with pytest.raises(Cut):
        export_bundle(plain.inputs, out, replay, 5, _cut_at_once)
    assert len(brief.replay.read_text().splitlines()) == 5


def test_failed_proof_keeps_previous_bundle(plain: Exported, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(plain.bundle.folder, out)
    perturbed = replace(plain.inputs, scores=lambda tensors: plain.inputs.scores(tensors) + np.float32(0.01))

    with pytest.raises(ExportError, match="the bundle was not written"):
        export_bundle(perturbed, out, tmp_path / "replay.jsonl", 10, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert open_bundle(out).bundle_id == plain.bundle.bundle_id


def test_rejects_inputs_of_others(run: Run, tmp_path: Path) -> None:
    other, knowledge, student = (tmp_path / name for name in ("dataset", "knowledge", "student"))
    write_tiny_dataset(other, seed=1)
    shutil.copytree(run.knowledge, knowledge)
    teach = json.loads((knowledge / "teach.json").read_text())
    (knowledge / "teach.json").write_text(json.dumps({**teach, "dataset": "another"}))
    shutil.copytree(run.student, student)
    record = json.loads((student / "student.json").read_text())
    (student / "student.json").write_text(json.dumps({**record, "fingerprint": "0" * 64}))
    vectors = load_vectors(run.student)
    save_vectors(StudentVectors("0" * 64, vectors.items, vectors.users), student)

    with pytest.raises(ModelFolderError, match="was trained on another state of the dataset .*; train again"):
        own_recipe(other, run.knowledge, run.student, run.semantic, None)
    with pytest.raises(MsdError, match="is about the dataset 'another', not 'tiny'; run `msd teach`"):
        own_recipe(run.dataset, knowledge, run.student, run.semantic, None)
    with pytest.raises(ModelFolderError, match="was trained with the vectors of another student"):
        own_recipe(run.dataset, run.knowledge, student, run.semantic, None)


def test_teacher_words_change_fingerprint(run: Run, plain: Exported, tmp_path: Path) -> None:
    shutil.copytree(run.knowledge, tmp_path / "knowledge")
    path = tmp_path / "knowledge" / "items.jsonl"
    path.write_text(path.read_text().replace("For people who like", "Made for people who like"))
    inputs = own_recipe(run.dataset, tmp_path / "knowledge", run.student, run.plain, None)
    assert inputs.fingerprint != plain.inputs.fingerprint


@pytest.mark.parametrize("text", [None, "{", "[]", '{"models": {"a": 1}}', '{"models": 3}'])
def test_rejects_invalid_evaluation(run: Run, text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MsdError, match=r"evaluation\.json: not what `msd evaluate` writes"):
        own_recipe(run.dataset, run.knowledge, run.student, run.plain, path)


def test_command_reports_proof_and_keeps_evaluation(
    run: Run, plain: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, evaluation = tmp_path / "bundle", tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps({"models": {"plain": {"metrics": {"auc": 0.7}, "calibration": []}}}))
    folders = [str(folder) for folder in (run.dataset, run.knowledge, run.student, run.plain, out)]
    for word in ("written", "done before"):
        with pytest.raises(SystemExit, match="0"):
            main(["export", *folders, "--requests", "5", "--evaluation", str(evaluation)])
        output = " ".join(capsys.readouterr().out.split())
        assert f", {word}; onnxruntime and torch differ by" in output
        assert "over 5 requests" in output
        assert re.search(r"the graph runs 200 candidates in \d+ µs.* as it was traced", output)
    assert open_bundle(out).manifest.metrics == {"plain": {"auc": 0.7}}
    inputs = own_recipe(run.dataset, run.knowledge, run.student, run.plain, evaluation)
    assert inputs.fingerprint != plain.inputs.fingerprint


def test_explain_writes_report(plain: Exported, brief: Brief, tmp_path: Path) -> None:
    report = json.loads(brief.report.read_text("utf-8"))
    assert {one["operator"] for one in report["split"]} & {"MatMul", "Gemm"}
    assert all(one["left"] for one in report["left"])
    assert not export_bundle(plain.inputs, brief.bundle, None, 5, quiet, explain=brief.report)
    with pytest.raises(Cut):
        export_bundle(plain.inputs, brief.bundle, None, 5, _cut_at_once, explain=tmp_path / "lost.json")
