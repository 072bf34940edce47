"""Optional parts of a bundle: a lean graph, proved against torch and measured against the full one; and uncertainty."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest

from model_export.errors import ExportError
from model_export.export import TOLERANCE, export_bundle
from model_export.graph import open_run
from model_export.inputs import ExportInputs, load_inputs
from model_export.lean import prove_lean
from model_export.parity import BundleRows
from model_export.ranker import torch_scores
from model_export.uncertainty import measure_uncertainty
from msd.__main__ import main
from msd.contract.bundle import ENCODER, GOLDENS, LEAN_RANKER, RANKER, Bundle, Manifest, bundle_id_of, open_bundle
from msd.contract.golden import read_goldens
from msd.training.lean import train_lean
from service.deployment.proof import Pace, prove
from service.scoring.model import load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.model_export.conftest import Exported, Run, quiet
from tests.ranker.made import SHORT


@pytest.fixture(scope="module")
def inputs(run: Run, tmp_path_factory: pytest.TempPathFactory) -> ExportInputs:
    """The model with semantics, and a lean one beside it."""
    model = tmp_path_factory.mktemp("lean") / "model"
    copytree(run.semantic, model)
    given = load_inputs(run.dataset, run.knowledge, run.student, model, None)
    train_lean(model, given.dataset, given.vectors, SHORT, nullcontext(quiet))
    return load_inputs(run.dataset, run.knowledge, run.student, model, None)


@pytest.fixture(scope="module")
def lean_bundle(inputs: ExportInputs, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("lean") / "bundle"
    assert export_bundle(inputs.recipe(), out, None, 60, quiet)
    assert not export_bundle(inputs.recipe(), out, None, 60, quiet)
    return open_bundle(out)


def test_lean_graph_scores_as_its_model(inputs: ExportInputs, lean_bundle: Bundle) -> None:
    assert inputs.lean is not None
    lean, rows = inputs.lean, BundleRows(lean_bundle)
    run = open_run(lean_bundle.path(LEAN_RANKER).read_bytes(), "fp32", ["pctr"])
    goldens = list(read_goldens(lean_bundle.path(GOLDENS)))
    assert goldens
    differences = []
    for golden in goldens:
        tensors = rows.tensors(golden)
        due = torch_scores(lean, tensors)[0]
        assert golden.lean is not None
        assert golden.lean["pctr"] == pytest.approx(due.tolist(), abs=1e-7)
        assert np.abs(run(tensors)[0] - due).max() <= TOLERANCE
        differences.append(np.abs(due - np.array(golden.expected["pctr"])).max())
    assert max(differences) > 1e-3  # it is another model


def test_manifest_has_cost_and_time(lean_bundle: Bundle) -> None:
    record = lean_bundle.manifest.lean
    assert record is not None
    (cost,) = record.costs.values()
    assert cost.valid_rows == 180
    assert 0 < cost.auc < 1
    assert cost.auc_cost_ci95 is not None
    assert cost.auc_cost_ci95[0] <= cost.auc_cost <= cost.auc_cost_ci95[1]
    assert cost.logloss > 0
    assert set(record.microseconds) == {1, 50, 200}
    assert record.share == record.microseconds[200].lean / record.microseconds[200].full
    assert lean_bundle.manifest.provenance["lean"]["max_abs_diff"] <= TOLERANCE


def test_service_loads_lean_graph(lean_bundle: Bundle) -> None:
    model = load_model(lean_bundle, Settings(bundle=lean_bundle.folder, lean=True), Metrics())
    assert model.lean is not None
    prove(model, max_candidates=200, pace=Pace())


def test_lean_graph_keeps_bundle_id(lean_bundle: Bundle, exported: Exported) -> None:
    """Rows, and what is learned of the full model's scores, stay those of this bundle."""
    manifest = lean_bundle.manifest
    full = {name: entry.sha256 for name, entry in manifest.files.items() if name in (RANKER, ENCODER)}
    assert manifest.bundle_id == bundle_id_of(manifest.feature_schema, full)
    assert LEAN_RANKER in manifest.files
    assert exported.bundle.manifest.lean is None


def test_differing_lean_graph_is_rejected(inputs: ExportInputs, lean_bundle: Bundle, tmp_path: Path) -> None:
    recipe = inputs.recipe()
    assert recipe.lean is not None
    wrong = replace(recipe.lean, graph=recipe.graph)
    run = open_run(recipe.graph(), "fp32", ["pctr"])
    goldens = list(read_goldens(lean_bundle.path(GOLDENS)))
    with pytest.raises(ExportError, match=r"lean\.onnx: a score of request 0 differs by"):
        prove_lean(run, wrong, ["pctr"], BundleRows(lean_bundle), goldens, TOLERANCE, quiet)


def test_uncertainty_is_measured_and_keeps_graph(
    run: Run, plain: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(one) for one in (run.dataset, run.knowledge, run.student, run.plain, tmp_path / "bundle")]
    with pytest.raises(SystemExit, match="0"):
        main(["export", *folders, "--uncertainty", "--requests", "8"])
    found = open_bundle(tmp_path / "bundle").manifest

    assert found.uncertainty is not None
    assert found.uncertainty.coverage.keys() >= {"new"}
    assert "Held-out ads" in capsys.readouterr().out
    std = found.uncertainty.logit_std(np.array([0.0, 1_000.0]), np.array([0.3, 0.3]))
    assert std[0] >= std[1] > 0
    before = plain.bundle.manifest
    assert before.uncertainty is None
    assert "uncertainty" not in json.loads(before.model_dump_json())
    assert found.bundle_id == before.bundle_id
    assert found.files[RANKER] == before.files[RANKER]


@pytest.mark.parametrize("changes", [{"new": 0.0}, {"new": 11.0}, {"floor": -0.1}, {"information": -1.0}, {"more": 1}])
def test_rejects_uncertainty_out_of_bounds(plain: Exported, changes: dict[str, float]) -> None:
    document = plain.bundle.manifest.model_dump(mode="json")
    document["uncertainty"] = {"new": 0.5, "information": 1.0, "floor": 0.1, **changes}

    with pytest.raises(ValueError, match="uncertainty"):
        Manifest.model_validate(document)


def test_rejects_too_few_items_and_aggregated_rows(plain: Exported) -> None:
    for is_aggregated, message in ((False, "19 items, and 20 are needed"), (True, "one row an impression")):
        evidence = SimpleNamespace(items=np.arange(19), is_aggregated=is_aggregated)
        with pytest.raises(ExportError, match=message):
            measure_uncertainty(plain.bundle.schema, evidence, None)  # type: ignore[arg-type]
