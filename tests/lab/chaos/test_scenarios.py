"""Every scenario of `make chaos` in short, on a small bundle: what must hold holds, whatever the machine's pace."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lab.chaos.command import Scenario, run_all, scenarios
from lab.chaos.day import unexplained
from lab.chaos.page import chaos_page
from lab.chaos.run import ChaosPlan, Run, Unable
from msd.__main__ import main
from msd.contract.bundle import Bundle
from tests.bundles.factory import AT, build_bundle
from tests.bundles.ranker_graph import Recipe

# Nothing is late, however slow the machine; overload is far too much.
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
    swaps=2,
    swaps_beside=1,
    swap_every_s=0.0,
    attackers=0.05,
    attack_s=0.5,
    bad_requests=500,
    live_rows=120,
    resamples=100,
    day_s=2.0,
    day_rate=20.0,
    chore_s=0.2,
)


def brief_run(name: str, bundle: Path, folder: Path) -> Run:
    return Run(name, bundle, folder, BRIEF, lambda *_: None)


@pytest.fixture(scope="module")
def runs(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, "Future[Run]"]]:
    """Each scenario's run; a few run side by side, because most of their time they wait."""
    folder = tmp_path_factory.mktemp("chaos")
    other = build_bundle(folder / "other", Recipe(seed=1)).folder
    encoding = build_bundle(folder / "demo" / "bundle", Recipe(encoder=True)).folder
    dataset = encoding.parent / "dataset"
    dataset.mkdir()
    files = "".join(f'[{name}]\nfile = "{name}.csv"\n' for name in ("events", "items", "users"))
    device = '[[features]]\nname = "device"\nside = "context"\nkind = "categorical"\n'
    (dataset / "dataset.toml").write_text(f'format = 1\nname = "made"\n{files}{device}')
    events = [f"u{number % 20},i{number * 7 % 300},{AT + number // 3:.0f},{number % 2},ios" for number in range(1_200)]
    (dataset / "events.csv").write_text("\n".join(["user_id,item_id,at,label,device", *events]))
    for name, count in (("item", 300), ("user", 20)):
        lines = [f"{name}_id", *(f"{name[0]}{number}" for number in range(count))]
        (dataset / f"{name}s.csv").write_text("\n".join(lines))

    def finished(name: str) -> Run:
        run = brief_run(name, bundle.folder, folder)
        run = replace(run, other=other, encoding=encoding)
        run.folder.mkdir()
        scenarios()[name](run)
        return run

    with ThreadPoolExecutor(4) as pool:
        yield {name: pool.submit(finished, name) for name in scenarios()}


@pytest.mark.parametrize("name", scenarios())
def test_untimed_checks_of_scenario_hold(name: str, runs: dict[str, "Future[Run]"]) -> None:
    run = runs[name].result()
    outcomes = Counter(sample.kind for sample in run.timeline.samples)

    assert [check.what for check in run.checks if not check.holds and not check.is_timed] == [], outcomes
    assert any(not check.is_timed for check in run.checks)
    assert run.figures
    json.dumps(run.timeline.as_json(), allow_nan=False)


def test_summary_and_page_have_reasons_broken_checks_and_earlier_results(tmp_path: Path) -> None:
    def passing(run: Run) -> None:
        run.figures["growth"] = 0.5
        run.timeline.levels["memory"] = [(0.0, 1.0), (1.0, 2.0)]
        run.check("it <holds>", True)
        run.check("in time", False, is_timed=True)

    def unable(run: Run) -> None:
        raise Unable("no clock can be shifted here")

    def failing(run: Run) -> None:
        run.check("all is well", False)
        raise ZeroDivisionError("a mistake of its own")

    made: dict[str, Scenario] = {"passing": passing, "unable": unable, "failing": failing}
    first = run_all(made, [brief_run("passing", tmp_path, tmp_path)], {})
    names = ("passing-piece-2", "unable", "failing")
    summary = run_all(made, [brief_run(name, tmp_path, tmp_path) for name in names], first["scenarios"])
    results = summary["scenarios"]
    page = chaos_page(summary)

    assert [result["reason"] for result in results.values()] == [
        "",
        "",
        "no clock can be shifted here",
        "ZeroDivisionError: a mistake of its own",
    ]
    assert list(results) == ["passing", *names]
    assert results["passing"] == first["scenarios"]["passing"]
    assert results["passing"]["figures"] == {"growth": 0.5}
    assert summary["broken"] == ["failing: all is well"]
    assert summary["machine"]["cores"] >= 1
    assert page.count("<svg") == 2
    assert "it &lt;holds&gt;" in page
    assert "no clock can be shifted here" in page


def test_unknown_scenario_is_an_error(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["lab", "chaos", "--out", str(tmp_path / "out"), "--bundle", str(bundle.folder), "--only", "earthquake"])

    assert ended.value.code == 2
    assert "earthquake: no such scenario; there are: swap, redis-kill" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reply_missing_in_the_log_is_explained_by_a_drop_counted_when_it_came() -> None:
    read = [(10.0, 0.0), (20.0, 2.0), (30.0, 2.0), (40.0, 9.0)]

    assert unexplained([], read) == 0
    assert unexplained([12.0, 19.0, 35.0], read) == 0
    assert unexplained([9.0, 9.5], read) == 0  # counted a moment later
    assert unexplained([11.0, 12.0, 13.0], read) == 1  # one more than was dropped then, whatever is dropped later
    assert unexplained([5.0, 25.0, 26.0], [(10.0, 0.0), (20.0, 0.0), (30.0, 2.0), (40.0, 9.0)]) == 1
    assert unexplained([41.0], read) == 1
