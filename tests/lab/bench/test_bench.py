"""`msd lab bench` on a small model, end to end: every figure is there and follows from those beside it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.bench import bench
from lab.bench.bench import BenchPlan
from lab.reference.bundles import Bundles
from msd.__main__ import main
from tests.lab.conftest import MAKINGS
from tests.service.live import run_msd

TINY = partial(
    BenchPlan,
    makings=MAKINGS,
    rounds=1,
    open_seconds=0.5,
    workers=(1,),
    clients=2,
    counts=(5,),
    loads=(0.5,),
    bodies=30,
    deadline_ms=30_000,  # some are scored, however slow the machine is
)


@pytest.fixture(scope="module")
def written(work: Path, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of figures that the command writes."""
    path = tmp_path_factory.mktemp("figures") / "new" / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "BenchPlan", TINY)
        with pytest.raises(SystemExit) as ended:
            main(["lab", "bench", "--out", str(path), "--work", str(work.parent), "--seconds", "0.1"])
    assert not ended.value.code
    return path


@pytest.fixture(scope="module")
def figures(written: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.read_text(), parse_constant=pytest.fail)
    return found


def test_every_figure_and_picture_is_there(figures: dict[str, Any], written: Path) -> None:
    assert figures["workers"] == {"naive": 1, "ours": 1}
    assert figures["candidates"] == MAKINGS.candidates
    assert figures["machine"]["cores"] >= 1
    assert figures["machine"]["load"].keys() == {"1_min", "15_min"}
    assert figures["p50_ms_by_candidates"].keys() == {"naive", "ours"}
    assert [len(figures["load_curve"][kind]) for kind in ("naive", "ours")] == [1, 1]
    assert figures["delta_visible_ms"] > 0
    for name in ("load", "stages", "candidates"):
        picture = written.with_name(f"bench-{name}.svg").read_text()
        assert picture.startswith("<svg")
        assert "ours" in picture or name == "load"


@pytest.mark.parametrize("store", ["redis", "file"])
def test_ratios_and_stages_follow_from_times(figures: dict[str, Any], store: str) -> None:
    found = figures[store]
    ours, naive = found["ours"], found["naive"]
    assert found["throughput_ratio"] == pytest.approx(ours["requests_per_s"] / naive["requests_per_s"], rel=0.01)
    assert found["p50_ratio"] == pytest.approx(naive["p50_ms"] / ours["p50_ms"], rel=0.01)
    assert 0 < found["overhead_share"] < found["overhead_share_client"] < 1
    stages = found["stages_ms"]
    assert list(stages) == ["parse", "rows", "queue", "run", "reply", "http", "wire"]
    assert sum(stages.values()) > stages["run"] > 0


def test_figures_of_arrivals_follow_from_outcomes(figures: dict[str, Any]) -> None:
    found, rest_ms = figures["arrivals"], figures["redis"]["ours"]["p50_ms"]
    assert found["p99_over_p50"] == pytest.approx(found["at_70_percent"]["p99_ms"] / rest_ms, rel=0.01, abs=1e-4)
    # Rounded to four decimals, and a slow machine may score next to nothing at twice a small rate.
    goodput = found["at_200_percent"]["goodput"] / found["capacity"]
    assert found["overload_goodput"] == pytest.approx(goodput, rel=0.01, abs=1e-4)
    assert found["overload_p99_ms"] == pytest.approx(found["at_200_percent"]["p99_ms"], rel=0.01, abs=1e-4)


def test_limits_are_of_the_measured_runs(figures: dict[str, Any]) -> None:
    limits, rate = figures["limits"], figures["redis"]["naive"]["requests_per_s"]
    runs = figures["machine"]["cores"] * 1e3 / figures["redis"]["stages_ms"]["run"]
    # Or more, if runs are faster at capacity than with one client.
    assert limits["throughput_ratio"] >= 0.99 * runs / rate
    assert limits["p99_over_p50"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--out", "bench.svg"], "must end in .json"),
        (["bench", "--out", "file/bench.json"], "cannot be written"),
        (["bench", "--out", "folder.json"], "cannot be written"),
        (["bench", "--seconds", "0"], "--seconds"),
    ],
)
def test_rejects_wrong_arguments_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    done = run_msd("lab", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]
