"""A bundle of a model with a head for conversions: both heads, proved, and the pricing that it declares."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import helper, numpy_helper

from model_export.errors import ExportError
from model_export.export import export_bundle
from model_export.inputs import own_recipe
from model_export.precision import choice
from model_export.precision.choice import choose
from model_export.precision.evidence import Evidence
from model_export.recipe import Recipe
from model_export.run import open_run
from msd.__main__ import main
from msd.contract.bundle import GOLDENS, Bundle, Manifest, open_bundle
from msd.contract.golden import read_goldens
from msd.contract.precision import PrecisionRecord
from msd.contract.pricing import PRICED
from msd.dataset.split import Part
from msd.metrics import roc_auc
from msd.ranker.features import Features, build_features
from native.bundle_rows import BundleRows
from tests.dataset.tiny import write_tiny_dataset
from tests.model_export.conftest import Exported, quiet


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny dataset, in which every third click converts, and a model of it."""
    folder = tmp_path_factory.mktemp("conversions")
    dataset = write_tiny_dataset(folder / "dataset", users=36)
    clicks = pl.read_parquet(dataset / "events.parquet").with_row_index()
    clicks.with_columns(bought=pl.col("click") * (pl.col("index") % 3 == 0)).drop("index").write_parquet(
        dataset / "events.parquet"
    )
    config = (dataset / "dataset.toml").read_text("utf-8")
    (dataset / "dataset.toml").write_text(config.replace('label = "click"', 'label = "click"\nconversion = "bought"'))
    with pytest.raises(SystemExit, match="0"):
        main(["train", str(dataset), str(folder / "model"), "--no-semantics", "--epochs", "1"])
    return dataset, folder / "model"


def test_evaluation_measures_both_heads(
    model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(model[0]), str(tmp_path), "--model", str(model[1]), "--resamples", "100"])
    found = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))["models"]["model"]["conversions"]

    assert found["pcvr"]["rows"] < found["pctcvr"]["rows"]
    assert found["pcvr"]["base_rate"] > found["pctcvr"]["base_rate"] > 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"model, conversions of clicks (pcvr): AUC {found['pcvr']['auc']:.4f}" in output
    assert "conversions of clicks (pcvr)" in (tmp_path / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def inputs(model: tuple[Path, Path]) -> Recipe:
    return own_recipe(model[0], None, None, model[1], None)


@pytest.fixture(scope="module")
def bundle(inputs: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    assert export_bundle(inputs, out, None, 12, quiet)
    return open_bundle(out)


@pytest.fixture(scope="module")
def features(inputs: Recipe) -> Features:
    return build_features(inputs.dataset, inputs.schema, inputs.vectors)


@pytest.fixture(scope="module")
def evidence(inputs: Recipe, bundle: Bundle, features: Features) -> Evidence:
    return Evidence(inputs.dataset, features, BundleRows.of(bundle))


def _scaled(graph: bytes, head: str | None) -> bytes:
    """The graph with a tenth less of one head; all else stays equal to the bit."""
    model = onnx.load_from_string(graph)
    if head is not None:
        (node,) = [one for one in model.graph.node if head in one.output]
        node.output[list(node.output).index(head)] = "unscaled"
        model.graph.initializer.append(numpy_helper.from_array(np.array(0.9, np.float32), "scale"))
        model.graph.node.append(helper.make_node("Mul", ["unscaled", "scale"], [head]))
    scaled: bytes = model.SerializeToString()
    return scaled


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (None, None),
        ("pctr", r"predicted over observed clicks moves by 0\.\d+, more than 0\.005"),
        ("pcvr", r"pcvr: .*predicted over observed conversions moves by 0\.\d+, more than 0\.005"),
    ],
)
def test_gate_judges_both_heads(
    inputs: Recipe,
    bundle: Bundle,
    evidence: Evidence,
    monkeypatch: pytest.MonkeyPatch,
    spoilt: str,
    reason: str | None,
) -> None:
    """On any CPU: the graph in int8 is replaced by one whose error is known."""
    heads, graph = bundle.manifest.heads, inputs.graph()
    monkeypatch.setattr(choice, "check_int8", lambda instructions: None)
    monkeypatch.setattr(choice, "quantise", lambda plain, rows: _scaled(plain, spoilt))
    if reason is not None:
        with pytest.raises(ExportError, match=f"int8 does not score as fp32 does on valid rows: .*{reason}"):
            choose(graph, heads, "int8", 20, evidence, quiet)
    record = choose(graph, heads, "auto", 20, evidence, quiet).record
    tried = record.tried["int8"]

    assert (tried.refused is None) == (reason is None)
    assert reason is None or record.chosen == "fp32"
    assert reason is None or re.search(reason, tried.refused or "")
    assert ("pcvr: " in (tried.refused or "")) == (spoilt == "pcvr")
    plain = record.tried["fp32"].pcvr
    assert plain is not None
    assert tried.pcvr is not None
    assert plain.clicks == evidence.labels.sum() > 0
    scale = 0.9 if spoilt == "pcvr" else 1.0
    assert tried.pcvr.predicted_over_observed == pytest.approx(scale * plain.predicted_over_observed)
    assert PrecisionRecord.model_validate_json(record.model_dump_json()) == record


def test_conversions_are_judged_on_clicks(
    inputs: Recipe, bundle: Bundle, features: Features, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = inputs.dataset.events["conversion"].to_numpy()[features.of_part(Part.VALID)]
    monkeypatch.setattr(choice, "check_int8", lambda instructions: None)
    monkeypatch.setattr(choice, "quantise", lambda plain, rows: plain)
    graph, heads = inputs.graph(), bundle.manifest.heads
    tried = choose(graph, heads, "auto", 20, evidence, quiet).record.tried["int8"]
    run = open_run(graph, "fp32", heads)
    scores = np.array([run(tensors)[1, 0] for tensors in evidence.valid()])
    clicked = evidence.labels > 0

    assert evidence.conversions is not None
    assert evidence.conversions.tolist() == valid.tolist()
    assert 0 < evidence.conversions.sum() < clicked.sum() < len(clicked)
    assert tried.pcvr is not None
    assert tried.pcvr.auc == pytest.approx(roc_auc(evidence.conversions[clicked], scores[clicked]))


@pytest.mark.parametrize(
    ("conversions", "reason"),
    [
        (None, "the head pcvr cannot be judged: the dataset names no conversions"),
        (0.0, "the head pcvr cannot be judged: all of the valid clicks convert, or none"),
        (1.0, "the head pcvr cannot be judged: all of the valid clicks convert, or none"),
    ],
)
def test_unjudged_conversions_leave_fp32(
    inputs: Recipe, bundle: Bundle, features: Features, conversions: float | None, reason: str
) -> None:
    given = None if conversions is None else torch.full_like(features.labels, conversions)
    evidence = Evidence(inputs.dataset, replace(features, conversions=given), BundleRows.of(bundle))
    graph, heads = inputs.graph(), bundle.manifest.heads
    chosen = choose(graph, heads, "auto", 20, evidence, quiet)

    assert (chosen.int8, chosen.record.chosen, chosen.record.passed) == (None, "fp32", ("fp32",))
    assert {name: one.refused for name, one in chosen.record.tried.items()} == {"int8": reason, "bf16": reason}
    for precision in ("int8", "bf16"):
        with pytest.raises(ExportError, match=f"{precision}: {reason}; use --precision fp32"):
            choose(graph, heads, precision, 20, evidence, quiet)
    assert evidence.unjudged(("pctr", "sold")) is None


def test_bundle_has_both_heads(bundle: Bundle) -> None:
    goldens = list(read_goldens(bundle.path(GOLDENS)))

    assert bundle.manifest.heads == ("pctr", "pcvr")
    assert bundle.manifest.pricing == bundle.manifest.formula == PRICED
    assert all(golden.expected.keys() == {"pctr", "pcvr"} for golden in goldens)
    assert any(golden.expected["pctr"] != golden.expected["pcvr"] for golden in goldens)
    assert bundle.manifest.reference is not None
    assert bundle.manifest.reference.scores.keys() == {"pctr", "pcvr"}


def test_bundle_without_conversions_prices_clicks(plain: Exported) -> None:
    manifest = plain.bundle.manifest

    assert manifest.pricing is None
    assert "pricing" not in manifest.model_dump()
    assert manifest.formula == {"cpm": (), "cpc": ("pctr",)}


@pytest.mark.parametrize(
    ("pricing", "words"),
    [
        ({"cpa": ["pctr", "pcvr"]}, "pricing.cpa multiplies by 'pcvr'; the heads are: pctr"),
        ({"cpm": ["pctr"]}, "cpm multiplies by no head"),
        ({"cpc": []}, "any other pricing by at least one"),
        ({"cpx": ["pctr"]}, "'cpm', 'cpc' or 'cpa'"),
    ],
)
def test_rejects_formula_without_head(plain: Exported, pricing: dict[str, list[str]], words: str) -> None:
    document = {**plain.bundle.manifest.model_dump(mode="json"), "pricing": pricing}

    with pytest.raises(ValueError, match="pricing") as failed:
        Manifest.model_validate(document)
    assert words in str(failed.value)
