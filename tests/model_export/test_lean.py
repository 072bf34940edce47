"""The lean graph of a bundle: proved against torch, measured against the full one, in the manifest; served."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from model_export.errors import ExportError
from model_export.export import TOLERANCE, export_bundle
from model_export.graph import open_run
from model_export.inputs import ExportInputs, load_inputs
from model_export.lean import prove_lean
from model_export.parity import BundleRows
from model_export.ranker import torch_scores
from msd.contract.bundle import ENCODER, GOLDENS, LEAN_RANKER, RANKER, Bundle, bundle_id_of, open_bundle
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
    """A bundle of both."""
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
