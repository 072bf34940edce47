"""`msd lab worlds`: one table, figures and a drawing; a second run reads what the first made."""

import json
from pathlib import Path

import polars as pl
import pytest

from lab.worlds.networks import fit_network
from lab.worlds.rivals import Predict
from msd.dataset.invented import invent_tests
from msd.evaluation.regression import Outcomes
from msd.ranker.features import Features
from msd.ranker.model import NetworkName
from tests.lab.benchmark.made import write_collm
from tests.lab.data.nemig import write_copy
from tests.ranker.brief import brief_tastes  # noqa: F401 - a fixture
from tests.service.live import run_msd
from tests.student.small import short_student

SMALL = ("--rows", "2000", "--auctions", "30")


@pytest.fixture(autouse=True)
def _short_students(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msd.student.step.new_student", short_student)


def test_worlds_are_measured_once_and_drawn(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    asked = ("lab", "worlds", "late", "--out", str(out), *SMALL)
    models = ("click_rates", "lr", "lr_crosses", "lightgbm", "ours", "law")
    first = run_msd(*asked, *(part for model in models for part in ("--model", model)))
    assert first.returncode == 0, first.stderr
    found = json.loads((out / "worlds.json").read_text("utf-8"))["worlds"]
    assert list(found) == ["late"]
    for name, world in found.items():
        assert list(world["models"]) == list(models)
        lines = world["models"]
        assert all(lines["law"]["first_ecpm"] >= line["first_ecpm"] for line in lines.values())
        assert all(lines["law"]["page_ecpm"] >= line["page_ecpm"] for line in lines.values())
        assert lines["law"]["predicted_over_law"] == 1.0
        assert world["gain"]["over"] in ("click_rates", "lr", "lr_crosses", "lightgbm")
        low, high = world["gain"]["ci95"]
        assert low < world["gain"]["first_ecpm"] < high
        assert json.loads((out / name / "models" / "ours" / "figures.json").read_text("utf-8")) == lines["ours"]
    assert "<svg" in (out / "worlds.svg").read_text("utf-8")

    made = {path: path.stat().st_mtime_ns for path in out.rglob("predictions.npz")}
    again = run_msd(*asked, "--json", *(part for model in models for part in ("--model", model)))
    assert json.loads(again.stdout)["worlds"] == found
    assert {path: path.stat().st_mtime_ns for path in out.rglob("predictions.npz")} == made

    (out / "late" / "models" / "lightgbm" / "predictions.npz").unlink()
    assert run_msd(*asked, "--model", "lightgbm").returncode == 0
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("predictions.npz")}
    assert [path.parent.name for path in kept if kept[path] != made[path]] == ["lightgbm"]


def test_service_earns_what_the_model_earns_offline(tmp_path: Path) -> None:
    """Of a log whose recipe cuts each user's rows, and which is cut by time to be served."""
    done = run_msd("lab", "worlds", "segments", "--out", str(tmp_path), *SMALL, "--model", "law", "--serve", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    served, law = found["served"]["segments"], found["worlds"]["segments"]["models"]["law"]
    assert served["largest_difference"] < 1e-5
    assert served["first_ecpm"] == served["first_offline"] < law["first_ecpm"]
    assert served["page_ecpm"] == served["page_offline"] < law["page_ecpm"]


def test_networks_read_the_texts_of_a_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, seen = tmp_path / "runs", []

    def fit(features: Features, outcomes: Outcomes, network: NetworkName) -> Predict:
        seen.append((network, features.schema.semantic("item") is not None, features.item.vectors.shape[1] > 0))
        return fit_network(features, outcomes, network)

    monkeypatch.setattr("lab.worlds.cell.fit_network", fit)
    monkeypatch.setattr("lab.worlds.networks._EPOCHS", 1)
    done = run_msd("lab", "worlds", "texts", "--out", str(out), *SMALL, "--model", "ours", "--model", "din")
    assert done.returncode == 0, done.stderr
    assert seen == [("din", True, True)]
    record = json.loads((out / "texts" / "models" / "ours" / "model" / "ranker.json").read_text("utf-8"))
    assert record["student"]
    assert "item_semantic" in [field["name"] for field in record["feature_schema"]["fields"]]
    assert json.loads((out / "worlds.json").read_text("utf-8"))["worlds"]["texts"]["gain"]["over"] == "din"


def test_real_logs_have_no_revenue(tmp_path: Path) -> None:
    collm = write_collm(tmp_path / "collm")
    columns = {"test": "clickability_test_id", "image": "eyecatcher_id", "day": "created_at"}
    packages = invent_tests(tests=240).drop("law").rename(columns)
    packages.with_columns(pl.col("created_at").cast(pl.String)).write_parquet(tmp_path / "headlines.parquet")
    nemig = write_copy(tmp_path / "nemig")
    given = ("--collm", str(collm), "--headlines", str(tmp_path / "headlines.parquet"), "--nemig", str(nemig))
    done = run_msd(
        *("lab", "worlds", "collm", "headlines", "nemig-en", "--out", str(tmp_path / "runs"), *given, "--json"),
        *("--model", "lr_crosses", "--model", "lightgbm", "--model", "law"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["worlds"]
    for world in found.values():
        assert list(world["models"]) == ["lr_crosses", "lightgbm"]
        for line in world["models"].values():
            assert line["first_ecpm"] is line["page_ecpm"] is line["predicted_over_law"] is None
    assert all(0.0 < line["within_auc"] < 1.0 for line in found["headlines"]["models"].values())
    # Positions tell which headline of a list is clicked.
    assert found["nemig-en"]["models"]["lr_crosses"]["within_auc"] > 0.55
    impressions = pl.read_parquet(tmp_path / "runs" / "headlines" / "dataset" / "events.parquet")["impressions"]
    assert impressions.to_numpy().max() > 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mars",), "there is no world 'mars'; there are segments, texts, "),
        (("segments", "--model", "oracle"), "there is no model 'oracle'; there are click_rates, "),
        (("nemig-de",), "the world 'nemig-de' needs your own copy of its data: give it with --nemig"),
        (("collm",), "the world 'collm' needs your own copy of its data: give it with --collm"),
        (("segments", "--out", "FILE"), "is a file; name a folder with --out"),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "file").write_text("")
    asked = [str(tmp_path / "file") if one == "FILE" else one for one in arguments]
    done = run_msd("lab", "worlds", *asked, *([] if "--out" in asked else ["--out", str(tmp_path / "runs")]))
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
