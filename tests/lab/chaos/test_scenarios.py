"""Every scenario of `make chaos` in short, on a small bundle: what has to hold holds, whatever the machine's pace."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.chaos import chaos
from lab.chaos import plan as plans
from lab.chaos.brownout import BrownoutGoodput
from lab.chaos.environment import Environment
from lab.chaos.plan import ChaosPlan
from lab.chaos.scenario import Check, Scenario, ScenarioResult, Unable
from lab.chaos.scenarios import SCENARIOS
from lab.chaos.timeline import ScenarioTimeline
from msd.__main__ import main
from msd.contract.bundle import Bundle
from tests.bundles.factory import AT, build_bundle
from tests.bundles.ranker_graph import Recipe

# Nothing is late, however slow the machine; what is to be too much is far too much.
BRIEF = ChaosPlan(
    workers=1,
    candidates=20,
    bodies=60,
    share=0.05,
    capacity_s=0.1,
    steady_s=0.4,
    broken_s=1.8,
    mended_s=0.8,
    deadline_ms=60_000,
    strict_deadline_ms=50,
    overload=3.0,
    brownout_turns=1,
    swaps=2,
    swaps_more=1,
    swap_every_s=0.0,
    slow_clients=20,
    attackers=0.05,
    attack_s=0.5,
    memory_requests=1_500,
    memory_from=500,
    bad_requests=500,
    generated=60,
    events=2_000,
    live_rows=120,
    resamples=100,
    events_a_batch=25,
)
_AT_ONCE = 4


@pytest.fixture(scope="module")
def findings(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[ScenarioResult]"]]:
    """What each scenario finds; a few run side by side, because most of their time they wait."""
    folder = tmp_path_factory.mktemp("chaos")
    other = build_bundle(folder / "other", Recipe(seed=1))
    build_bundle(folder / "data" / "bundle", Recipe(encoder=True))
    _write_dataset(folder / "data" / "dataset")
    environment = Environment(
        bundle.folder, folder, BRIEF, lambda doing, done, total: None, other=other.folder, data=folder / "data"
    )
    lean = replace(environment, bundle=build_bundle(folder / "lean", Recipe(lean=True)).folder)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield {
            scenario.name: pool.submit(scenario(lean if scenario is BrownoutGoodput else environment).run)
            for scenario in SCENARIOS
        }


def _write_dataset(folder: Path) -> None:
    """Events of the bundle's users and items, without any rule."""
    folder.mkdir()
    files = "".join(f'[{name}]\nfile = "{name}.csv"\n' for name in ("events", "items", "users"))
    device = '[[features]]\nname = "device"\nside = "context"\nkind = "categorical"\n'
    (folder / "dataset.toml").write_text(f'format = 1\nname = "made"\n{files}{device}')
    events = [f"u{number % 20},i{number * 7 % 300},{AT + number // 3:.0f},{number % 2},ios" for number in range(1_200)]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,at,label,device", *events]))
    for name, count in (("item", 300), ("user", 20)):
        lines = [f"{name}_id", *(f"{name[0]}{number}" for number in range(count))]
        (folder / f"{name}s.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_what_has_to_hold_holds(scenario: type[Scenario], findings: dict[str, "Future[ScenarioResult]"]) -> None:
    found = findings[scenario.name].result()
    seen = Counter(sample.kind for sample in found.timeline.samples) if found.timeline else None
    assert [check.what for check in found.checks if not check.holds and not check.is_timed] == [], seen
    assert all(found.figures[key] is not None for key in scenario.told)
    assert any(not check.is_timed for check in found.checks)
    assert found.timeline is not None
    json.dumps(found.timeline.as_json(), allow_nan=False)


def test_every_figure_that_is_told_has_one_scenario() -> None:
    told = chaos.told_keys()
    assert len(told) == len(set(told))


class Made(Scenario):
    name, title, told = "made", "Made up", ("rss_growth",)

    def run(self) -> ScenarioResult:
        timeline = ScenarioTimeline(levels={"memory": [(0.0, 1.0), (1.0, 2.0)]})
        return ScenarioResult(
            {"rss_growth": 0.5}, (Check("it <holds>", True), Check("in time", False, is_timed=True)), timeline
        )


class Unrunnable(Scenario):
    name, title, told = "unable", "Not to be had", ("sigterm_lost",)

    def run(self) -> ScenarioResult:
        raise Unable("no clock can be shifted here")


class Failing(Scenario):
    name, title, told = "failing", "Fails by itself", ("events_lost",)

    def run(self) -> ScenarioResult:
        raise ZeroDivisionError("a mistake of its own")


class Bad(Scenario):
    name, title = "made", "Made up"

    def run(self) -> ScenarioResult:
        return ScenarioResult({}, (Check("all is well", False),), ScenarioTimeline())


MADE = (Made, Unrunnable, Failing)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three scenarios in place of all."""
    monkeypatch.setattr("lab.chaos.scenarios.SCENARIOS", MADE)
    monkeypatch.setattr(chaos, "SCENARIOS", MADE)
    monkeypatch.setattr(plans, "ChaosPlan", lambda: replace(BRIEF))


def _chaos(folder: Path, bundle: Bundle, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["chaos", "--out", str(folder), "--bundle", str(bundle.folder), *options])
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.usefixtures("made")
def test_what_cannot_be_found_is_null_with_its_reason(bundle: Bundle, tmp_path: Path) -> None:
    assert _chaos(tmp_path, bundle) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "chaos.json").read_text())
    assert list(summary)[:3] == chaos.told_keys()
    assert [summary[key] for key in chaos.told_keys()] == [0.5, None, None]
    reasons = summary["reasons"]
    assert "rss_growth" not in reasons
    assert reasons["sigterm_lost"] == "no clock can be shifted here"
    assert reasons["events_lost"] == "ZeroDivisionError: a mistake of its own"
    assert summary["broken"] == []
    assert summary["machine"]["cores"] >= 1
    page = (tmp_path / "chaos.html").read_text()
    assert page.count("<svg") == 1
    assert "it &lt;holds&gt;" in page
    assert "no clock can be shifted here" in page


@pytest.mark.usefixtures("made")
def test_one_that_is_run_again_leaves_the_others_findings(bundle: Bundle, tmp_path: Path) -> None:
    assert _chaos(tmp_path, bundle, "--only", "made") == 0
    first = json.loads((tmp_path / "chaos.json").read_text())
    assert first["scenarios"]["unable"]["reason"] == "it was not run"
    assert _chaos(tmp_path, bundle, "--only", "unable, failing") == 0
    summary = json.loads((tmp_path / "chaos.json").read_text())
    assert summary["scenarios"]["made"] == first["scenarios"]["made"]
    assert summary["rss_growth"] == 0.5


@pytest.mark.usefixtures("made")
def test_what_does_not_hold_is_the_commands_status(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.chaos.scenarios.SCENARIOS", (Bad,))
    monkeypatch.setattr(chaos, "SCENARIOS", (Bad,))
    assert _chaos(tmp_path, bundle) == 1
    assert json.loads((tmp_path / "chaos.json").read_text())["broken"] == ["made: all is well"]


@pytest.mark.usefixtures("made")
def test_a_scenario_that_there_is_not_is_told(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _chaos(tmp_path / "out", bundle, "--only", "earthquake") == 2
    assert "earthquake: no such scenario; there are: made, unable, failing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
