"""`msd lab chaos`: starts services, breaks them in many ways, and reports the results."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from msd.contract.errors import MsdError
from msd.report import Heard, bar, show, table, write_figures

if TYPE_CHECKING:
    from lab.chaos.run import Run

app = typer.Typer(add_completion=False)
Scenario = Callable[["Run"], None]


@app.command("chaos")
def main(
    out: Annotated[Path, typer.Option(help="A folder for chaos.json, chaos.html and logs.")] = Path("runs/chaos"),
    only: Annotated[str, typer.Option(help="Scenarios by name, comma-separated; the others' results are kept.")] = "",
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle to serve. Default: a reference model, made if needed.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option(help="With --bundle: one with other weights for the same users and items.")
    ] = None,
    encoding: Annotated[Path, typer.Option(help="A demo's bundle, for the scenarios `cold` and `live-counts`.")] = Path(
        "runs/demo/bundle"
    ),
    minutes: Annotated[float, typer.Option(min=0.1, help="Of the scenario `day`.")] = 1.0,
    add: Annotated[bool, typer.Option("--add", help="Keep earlier results of the named scenarios, too.")] = False,
    work: Annotated[Path, typer.Option(help="Folder for the reference model, reused.")] = Path("runs/bench"),
) -> None:
    """Breaks things for real. Exit status 1 if anything does not hold that has nothing to do with durations."""
    from lab.chaos.page import chaos_page
    from lab.chaos.run import ChaosPlan, Run

    known = scenarios()
    names = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    for name in names:
        if name not in known:
            raise MsdError(f"--only {name}: no such scenario; there are: {', '.join(known)}")
    plan = ChaosPlan(day_s=60 * minutes)
    with bar(refresh=False) as heard:
        served, second = _reference(work, heard) if bundle is None else (bundle, other)
        served, out = served.absolute(), out.absolute()
        second = second and second.absolute()
        stored = out / "chaos.json"
        earlier = json.loads(stored.read_text("utf-8"))["scenarios"] if stored.exists() else {}
        pieces = [1 + sum(scenario_of(kept) == name for kept in earlier) if add else 1 for name in names]
        runs = [
            Run(f"{name}-piece-{piece}" if piece > 1 else name, served, out, plan, heard, second, encoding, piece)
            for name, piece in zip(names, pieces, strict=True)
        ]
        summary = run_all(known, runs, earlier)
    show([_table(summary)])
    write_figures(stored, summary, {".html": chaos_page(summary)})
    if summary["broken"]:
        raise typer.Exit(1)


def scenarios() -> dict[str, Scenario]:
    """Return all scenarios by name, in running order."""
    from lab.chaos import (
        attack,
        bad_requests,
        cold,
        day,
        live_counts,
        overload,
        redis,
        swap,
    )

    return {
        "swap": swap.swap,
        "redis-kill": redis.redis_kill,
        "redis-freeze": redis.redis_freeze,
        "sentinel": redis.sentinel_failover,
        "cluster": redis.cluster_failover,
        "overload": overload.overload,
        "live-counts": live_counts.live_counts,
        "cold": cold.cold,
        "bad-requests": bad_requests.bad_requests,
        "attack": attack.attack,
        "day": day.day,
    }


def scenario_of(name: str) -> str:
    """Return the scenario of a run, which may be one of several pieces."""
    return name.partition("-piece-")[0]


def run_all(known: dict[str, Scenario], runs: list["Run"], earlier: dict[str, Any]) -> dict[str, Any]:
    """Run scenarios one after another; return the summary of these and of earlier ones."""
    from lab.benchmark.machine import machine_now

    order, results = list(known), {name: result for name, result in earlier.items() if scenario_of(name) in known}
    for place, run in enumerate(runs):
        run.heard(run.name, place, len(runs))
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder.mkdir(parents=True)
        results[run.name] = _result(known[scenario_of(run.name)], run)
    broken = [
        f"{name}: {check['what']}"
        for name, result in results.items()
        for check in result["checks"]
        if not check["holds"] and not check["is_timed"]
    ]
    return {
        "broken": broken,
        "scenarios": {name: results[name] for name in sorted(results, key=lambda name: order.index(scenario_of(name)))},
        "plan": asdict(runs[0].plan),
        "bundle": str(runs[0].bundle),
        "machine": machine_now(),
    }


def _result(scenario: Scenario, run: "Run") -> dict[str, Any]:
    start, reason = time.perf_counter(), ""
    try:
        scenario(run)
    except MsdError as error:
        reason = str(error)
    except Exception as error:  # a failing scenario, whatever the error, must not stop the others
        reason = f"{type(error).__name__}: {error}"
    return {
        "figures": run.figures,
        "reason": reason,
        "checks": [check._asdict() for check in run.checks],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 1),
        "timeline": run.timeline.as_json(),
    }


def _reference(work: Path, heard: Heard) -> tuple[Path, Path]:
    """Return the reference model in the best precision, and one of other weights for the same users and items."""
    from lab.reference.bundles import Makings, made_bundles

    other = Makings(seed=1, precisions=("fp32",))
    return made_bundles(work / "bundles", Makings(), heard).best, made_bundles(work / "other", other, heard).fp32


def _table(summary: dict[str, Any]) -> Table:
    made = table(None, ("scenario", "", "what had to hold"), texts=3)
    for name, result in summary["scenarios"].items():
        if result["reason"]:
            made.add_row(name, "–", Text(result["reason"]))
        for check in result["checks"]:
            held = "yes" if check["holds"] else "no, in time" if check["is_timed"] else "NO"
            made.add_row(name, held, Text(check["what"]))
    return made
