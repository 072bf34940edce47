"""`msd bench` on a small model, end to end: every figure is there and follows from the absolute ones beside it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab.bench import plan as plans
from lab.bench.contestants import Contestant, Contestants
from lab.bench.plan import BenchPlan
from lab.reference.bundles import Bundles
from loadtest.arrivals import constant
from loadtest.generator import LoadLimits, Target, open_loop
from loadtest.http_client import ClientError
from msd.__main__ import main
from tests.loadtest.conftest import MAKINGS
from tests.service.live import run_msd

KEYS = {
    *(f"{name}_ratio_{kind}" for name in ("throughput", "p50") for kind in ("fp32", "best")),
    *("overhead_share_fp32", "overhead_share_best", "openloop70_p99_over_p50", "openloop70_p999_over_p50"),
    *("overload_goodput", "overload_p99_ms", "lookup_ratio", "start_s_10m", "lookup_ratio_10m", "delta_visible_ms"),
    *("precision", "limits", "machine"),
}
TINY = partial(
    BenchPlan,
    makings=MAKINGS,
    rounds=1,
    open_seconds=0.5,
    workers=(1,),
    clients=(1, 2),
    counts=(5,),
    loads=(0.5,),
    bodies=30,
    many_rows=3_000,
    few_rows=1_000,
)


@pytest.fixture(scope="module")
def written(work: Path, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    path = tmp_path_factory.mktemp("figures") / "new" / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "BenchPlan", TINY)
        with pytest.raises(SystemExit) as ended:
            main(["lab", "bench", "--json", str(path), "--work", str(work.parent), "--seconds", "0.1"])
    assert not ended.value.code
    return path


@pytest.fixture(scope="module")
def figures(written: Path) -> dict[str, Any]:
    """The same, read."""
    found: dict[str, Any] = json.loads(written.read_text())
    return found


def test_every_figure_is_there(figures: dict[str, Any]) -> None:
    assert figures.keys() >= KEYS
    assert figures["workers"] == {"naive": 1, "fp32": 1, "best": 1}
    assert figures["candidates"] == MAKINGS.candidates
    assert figures["machine"]["cores"] >= 1
    assert figures["machine"]["load"].keys() == {"1_min", "15_min"}
    assert figures["p50_ms_by_candidates"].keys() == {"naive", "fp32", "best"}
    assert [len(figures["load_curve"][kind]) for kind in ("naive", "best")] == [1, 1]
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("store", ["redis", "file"])
@pytest.mark.parametrize("kind", ["fp32", "best"])
def test_ratios_follow_from_what_was_measured(figures: dict[str, Any], store: str, kind: str) -> None:
    told, found = figures if store == "redis" else figures["file"], figures["absolute"][store]
    rates = {name: one["at_capacity"]["median_goodput"] for name, one in found.items()}
    p50 = {name: one["one_client"]["median_p50_ms"] for name, one in found.items()}
    assert told[f"throughput_ratio_{kind}"] == pytest.approx(rates[kind] / rates["naive"], rel=0.01)
    assert told[f"p50_ratio_{kind}"] == pytest.approx(p50["naive"] / p50[kind], rel=0.01)
    assert 0 < told[f"overhead_share_{kind}"] < 1
    assert 0 < told[f"overhead_share_client_{kind}"] < 1


def test_what_comes_of_arrivals_follows_too(figures: dict[str, Any]) -> None:
    for kind, ending in (("best", ""), ("fp32", "_fp32")):
        held, rest = figures["open_loop"][kind], figures["absolute"]["redis"][kind]
        over = held["at_70_percent"]["p99_ms"] / rest["one_client"]["median_p50_ms"]
        assert figures[f"openloop70_p99_over_p50{ending}"] == pytest.approx(over, rel=0.01, abs=1e-4)
        # Figures are told to four decimals, and a slow machine may score next to nothing at twice a small rate.
        goodput = held["at_200_percent"]["goodput"] / held["capacity"]
        assert figures[f"overload_goodput{ending}"] == pytest.approx(goodput, rel=0.01, abs=1e-4)
        assert figures[f"overload_p99_ms{ending}"] == pytest.approx(
            held["at_200_percent"]["p99_ms"], rel=0.01, abs=1e-4
        )


def test_the_stages_of_a_request_are_told(figures: dict[str, Any]) -> None:
    for kind in ("fp32", "best"):
        stages = figures["stages_ms"][kind]
        assert list(stages) == ["parse", "rows", "queue", "run", "reply", "http", "wire"]
        assert sum(stages.values()) > stages["run"] > 0


def test_limits_are_of_what_was_measured(figures: dict[str, Any]) -> None:
    limits, rate = figures["limits"], figures["absolute"]["redis"]["naive"]["at_capacity"]["median_goodput"]
    assert limits.keys() < figures.keys()
    for kind in ("fp32", "best"):
        runs = figures["machine"]["cores"] * 1e3 / figures["stages_ms"][kind]["run"]
        # Or more, where runs are faster at capacity than with one client.
        assert limits[f"throughput_ratio_{kind}"] >= 0.99 * runs / rate
    assert 1 < limits["openloop70_p99_over_p50"] < limits["openloop70_p999_over_p50"]


def test_pictures_are_written_beside_the_figures(written: Path) -> None:
    for name in ("load", "stages", "candidates"):
        picture = written.with_name(f"bench-{name}.svg").read_text()
        assert picture.startswith("<svg")
        assert "ours" in picture or name == "load"


def test_a_service_that_dies_is_named(bundles: Bundles, tmp_path: Path) -> None:
    plan = replace(TINY(), deadline_ms=60_000)
    with Contestants(bundles, plan, tmp_path) as contestants:
        entry = Contestant("fp32", 1, in_redis=False)
        url = contestants.start([entry])[entry]
        target = contestants.target("fp32", url, 20)
        assert open_loop(target, constant(50, 0.2), 0.2).statuses == {200: 10}
        contestants.stop([entry])
        with pytest.raises(ClientError, match=f"{url}: no connection: "):
            open_loop(Target(url, target.requests), constant(50, 0.2), 0.2, LoadLimits())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "bench.svg"], "must end in .json"),
        (["--json", "file/bench.json"], "cannot be written"),
        (["--json", "folder.json"], "cannot be written"),
        (["--seconds", "0"], "--seconds"),
        (["--json"], "requires an argument"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    done = run_msd("lab", "bench", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder.json"]


def test_a_bundle_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", str(tmp_path)])
    assert "no bundle here" in capsys.readouterr().err


def test_nobody_at_the_address_is_told(bundles: Bundles, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", str(bundles.fp32), "--url", "http://127.0.0.1:9"])
    assert "http://127.0.0.1:9: no reply" in capsys.readouterr().err
