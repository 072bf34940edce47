"""`msd evaluate LOG… --bundle old=A --bundle new=B`: judges two bundles on later logged impressions."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from msd.contract.correction import read_corrections
from msd.feedback.collect import Events, Logs, SettleHours, WindowHours, collected
from msd.feedback.files import JUDGE_COLUMNS, FeedbackError, read_events, read_requests
from msd.feedback.gate import Decision, Figures, Gate
from msd.feedback.impressions import Windows, join
from msd.feedback.judge import Verdict, judge
from msd.feedback.scored_bundle import ScoredBundle
from msd.step import read_toml

_EXIT_CODES: dict[Decision, int] = {"promote": 0, "keep": 3, "unknown": 4}
_SENTENCES: dict[Decision, str] = {
    "promote": "promote",
    "keep": "keep the old one",
    "unknown": "unknown: let a rollout decide",
}
app = typer.Typer(add_completion=False)


class _GateFile(BaseModel):
    gate: Gate = Gate()


@app.command("evaluate")
def main(
    logs: Logs,
    bundle: Annotated[
        list[str], typer.Option(metavar="old=DIR, new=DIR", help="The served bundle, and that to replace it.")
    ],
    events: Events = None,
    corrections: Annotated[
        Path | None, typer.Option(metavar="FILE", help="MSD_CORRECTIONS of the services, to judge what they serve.")
    ] = None,
    gate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file whose table [gate] has other bounds.")
    ] = None,
    window_hours: WindowHours = 24.0,
    settle_hours: SettleHours = 1.0,
    requests: Annotated[int, typer.Option(min=1, help="Most requests to judge by, the latest.")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Score the impressions that are later than both bundles' data by each bundle's graph and rows, and compare.

    Exit status 0 if the new bundle surely passes the gate, 3 if the old one should stay, 4 if a rollout has to decide.
    """
    places = dict(one.partition("=")[::2] for one in bundle)
    if places.keys() != {"old", "new"} or len(bundle) != 2:
        raise FeedbackError("give both bundles: --bundle old=DIR --bundle new=DIR")
    corrected = read_corrections(corrections) if corrections else {}
    windows = Windows(3_600 * window_hours, settle_s=3_600 * settle_hours, now=time.time())
    bounds = read_toml(gate, _GateFile, FeedbackError).gate if gate else Gate()
    old, new = (ScoredBundle(Path(places[name]), corrected) for name in ("old", "new"))
    with collected(logs) as folders:
        impressions = join(read_requests(folders), read_events(events or folders), windows).frame
        verdict = judge(
            old,
            new,
            read_requests(folders, JUDGE_COLUMNS),
            impressions,
            bounds,
            most_requests=requests,
        )
    if as_json:
        typer.echo(json.dumps(verdict.document(), indent=2))
    else:
        print_verdict(Console(), verdict)
    if code := _EXIT_CODES[verdict.decision]:
        raise typer.Exit(code)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print both bundles' figures and the gate's checks."""
    figures = verdict.figures
    if "models" in figures:
        console.print(_table(figures))
    for check in verdict.checks:
        outcome = {"holds": "ok  ", "fails": "FAIL", "unknown": "?   "}[check.outcome]
        console.print(f"{outcome} {check}", highlight=False, markup=False)
    console.print(_SENTENCES[verdict.decision], highlight=False)


def _table(figures: Figures) -> Table:
    title = f"{figures['impressions']} later impressions, {figures['at_unknown_positions']} of unknown position,"
    title += f" {figures['clicks']} clicks"
    metrics = ("auc", "logloss", "ece", "predicted_over_observed", "ms")
    table = Table("bundle", *(metric.replace("_", " ") for metric in metrics), title=title, title_justify="left")
    for name, model in figures["models"].items():
        table.add_row(name, *(f"{model[metric]:.4f}" for metric in metrics))
    return table
