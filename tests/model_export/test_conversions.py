"""A bundle of a model with a head for conversions: both heads, proved, and the pricing that it declares."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model_export.export import export_bundle
from model_export.inputs import load_inputs
from model_export.merged import merged_graph
from model_export.run import open_run
from msd.__main__ import main
from msd.contract.bundle import GOLDENS, Manifest, open_bundle
from msd.contract.golden import read_goldens
from msd.contract.merge import merge
from msd.contract.pricing import PRICED
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


def test_both_heads_are_measured(model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(model[0]), str(tmp_path), "--model", str(model[1]), "--resamples", "100"])
    found = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))["models"]["model"]["conversions"]

    assert found["pcvr"]["rows"] < found["pctcvr"]["rows"]
    assert found["pcvr"]["base_rate"] > found["pctcvr"]["base_rate"] > 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"model, conversions of clicks (pcvr): AUC {found['pcvr']['auc']:.4f}" in said
    assert "conversions of clicks (pcvr)" in (tmp_path / "report.html").read_text("utf-8")


def test_both_heads_are_in_the_graph_and_proved(model: tuple[Path, Path], tmp_path: Path) -> None:
    inputs = load_inputs(model[0], None, None, model[1], None)
    assert export_bundle(inputs, tmp_path / "bundle", None, 12, quiet, merged=True)
    bundle = open_bundle(tmp_path / "bundle")
    goldens = list(read_goldens(bundle.path(GOLDENS)))

    assert bundle.manifest.heads == ("pctr", "pcvr")
    assert bundle.manifest.pricing == bundle.manifest.formula == PRICED
    assert all(golden.expected.keys() == {"pctr", "pcvr"} for golden in goldens)
    assert any(golden.expected["pctr"] != golden.expected["pcvr"] for golden in goldens)
    assert bundle.manifest.reference is not None
    assert bundle.manifest.reference.scores.keys() == {"pctr", "pcvr"}


def test_a_bundle_without_conversions_declares_nothing_and_prices_clicks(plain: Exported) -> None:
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
def test_a_formula_that_the_heads_do_not_give_is_refused(
    plain: Exported, pricing: dict[str, list[str]], words: str
) -> None:
    document = {**plain.bundle.manifest.model_dump(mode="json"), "pricing": pricing}

    with pytest.raises(ValueError, match="pricing") as failed:
        Manifest.model_validate(document)
    assert words in str(failed.value)


def test_a_graph_for_several_requests_has_both_heads(model: tuple[Path, Path]) -> None:
    trained = load_inputs(model[0], None, None, model[1], None).trained
    tensors = {
        spec.name: np.zeros((2 if spec.side == "item" else 1, *spec.shape), spec.dtype)
        for spec in trained.schema.tensors
    }
    run = open_run(merged_graph(trained), "fp32", ("pctr", "pcvr"))

    assert run(merge(trained.schema, [tensors, tensors])).shape == (2, 4)
