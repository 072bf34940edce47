"""`msd lab worlds`: measure ours, its rivals and the law on made and real logs, and print one table."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lab.benchmark.machine import machine_now
from lab.worlds.cell import MODELS, cell_of
from lab.worlds.drawing import draw_worlds
from lab.worlds.open_bandit import NAME as OPEN_BANDIT
from lab.worlds.open_bandit import Judged, judge_open_bandit
from lab.worlds.recipe import RECIPES, WorldError
from lab.worlds.run import Scope, run_worlds
from lab.worlds.serving import Served, serve_world
from lab.worlds.world import WORLDS, Given
from msd.contract.files import write_text_atomic
from msd.dataset.samples import WHEEL
from msd.report import bar, show, table

app = typer.Typer(add_completion=False)
_COLUMNS = {
    "auc": ("AUC", ".4f"),
    "within_auc": ("in requests", ".4f"),
    "logloss": ("logloss", ".4f"),
    "first_ecpm": ("eCPM first", ".1f"),
    "page_ecpm": ("eCPM page", ".1f"),
    "predicted_over_law": ("pred ÷ law", ".3f"),
}


@app.command("worlds")
def worlds(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these worlds. Default: all with data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for logs, models and figures.")] = Path("runs/worlds"),
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="Only these models. Repeatable.")
    ] = None,
    auctions: Annotated[int, typer.Option(min=10, help="Auctions of each made world.")] = 2_000,
    rows: Annotated[int | None, typer.Option(min=2_000, help="Impressions of each made log, for a trial.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of made laws and logs.")] = 0,
    ml_100k: Annotated[
        Path | None, typer.Option("--ml-100k", metavar="WHEEL", help="As of `msd data ml-100k --wheel`.")
    ] = None,
    collm: Annotated[Path | None, typer.Option(metavar="FOLDER", help="CoLLM's split (docs/protocols.md).")] = None,
    headlines: Annotated[
        Path | None, typer.Option(metavar="ARCHIVE", help="Your download of the Upworthy Research Archive.")
    ] = None,
    nemig: Annotated[Path | None, typer.Option(metavar="COPY", help="Your clone of NeMig's repository.")] = None,
    open_bandit: Annotated[
        Path | None, typer.Option("--open-bandit", metavar="WHEEL", help=f"The wheel of {WHEEL}. Default: pip's.")
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Also serve ours of made logs, and compare revenue.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON in place of the table.")] = False,
) -> None:
    """Measure all models on made and real logs. If interrupted, run it again to resume."""
    if out.is_file():
        raise WorldError(f"{out} is a file; name a folder with --out")
    given = Given(ml_100k, collm, headlines, nemig, rows, seed)
    left_out = [] if names else [name for name, world in WORLDS.items() if not world.is_given(given)]
    scope = _scope([name for name in names or (*WORLDS, OPEN_BANDIT) if name not in left_out], models, auctions)
    with redirect_stdout(sys.stderr):  # standard output is for the figures
        found = _run(given, out, scope)
        served = {name: serve_world(name, given, auctions) for name in scope.worlds if serve and name in RECIPES}
    judged = judge_open_bandit(open_bandit) if not names or OPEN_BANDIT in names else []
    figures = {
        "command": shlex.join(["msd", *sys.argv[1:]]),
        "seed": seed,
        "auctions": auctions,
        "worlds": found,
        "served": {name: one._asdict() for name, one in served.items()},
        "estimators": [one.figures() for one in judged],
        "machine": machine_now(),
    }
    text = json.dumps(figures, indent=2)
    write_text_atomic(out / "worlds.json", text + "\n")
    if found:
        write_text_atomic(out / "worlds.svg", draw_worlds(found, MODELS))
    if as_json:
        typer.echo(text)
        return
    tables = [table_of(found)] if found else []
    tables += [table_of_served(served)] if served else []
    show([*tables, *([table_of_estimates(judged)] if judged else [])])
    for name in left_out:
        typer.echo(f"left out: {name}, because its data is not given (--{WORLDS[name].option})")
    typer.echo(f"{out} has all figures: worlds.json{' and worlds.svg' if found else ''}")


def _scope(names: Sequence[str], models: Sequence[str] | None, auctions: int) -> Scope:
    """Return what to measure. Raises WorldError for an unknown world or model."""
    if odd := [name for name in names if name not in (*WORLDS, OPEN_BANDIT)]:
        raise WorldError(f"there is no world {odd[0]!r}; there are {', '.join((*WORLDS, OPEN_BANDIT))}")
    for model in models or ():
        cell_of(model)
    return Scope([name for name in names if name in WORLDS], tuple(models or MODELS), auctions)


def _run(given: Given, out: Path, scope: Scope) -> dict[str, Any]:
    """Measure all cells, with a bar."""
    steps = len(scope.worlds) * (len(scope.models) + 1)
    cells = iter(range(steps))
    with bar(Console(stderr=True)) as heard:
        return run_worlds(given, out, scope, lambda doing: heard(doing, next(cells, steps), steps))


def table_of(found: Mapping[str, Any]) -> Table:
    """Return one line per world and model. Ours has its gain in revenue over the strongest rival."""
    names = [name for name, _ in _COLUMNS.values()]
    made = table(None, ("world", "model", *names, "ours over best (95 %)"), texts=2)
    for world, held in found.items():
        for place, (model, line) in enumerate(held["models"].items()):
            shown = ["–" if line[key] is None else f"{line[key]:{form}}" for key, (_, form) in _COLUMNS.items()]
            gain = held["gain"] if model == "ours" else None
            told = "{:+.1%} ({:+.1%}, {:+.1%})".format(gain["first_ecpm"], *gain["ci95"]) if gain else ""
            made.add_row("" if place else world, model, *shown, told)
    return made


def table_of_served(served: Mapping[str, Served]) -> Table:
    """Return one line per world: what the service earns, beside the same model offline."""
    kinds = ("eCPM first", "offline", "eCPM page", "offline", "largest difference of a score")
    made = table(None, ("served", *kinds))
    for name, one in served.items():
        made.add_row(name, *(f"{value:.3f}" for value in one[:-1]), f"{one.largest_difference:.1e}")
    return made


def table_of_estimates(judged: Sequence[Judged]) -> Table:
    """Return one line per campaign of Open Bandit: clicks per 1,000 of the uniform policy, as its own log has them and
    as estimated from another policy's log, with 95 % intervals."""
    kinds = ("uniform", "logged", "ips", "snips", "dr")
    made = table(None, ("open bandit", *kinds, "effective rows", "largest weight"))
    for one in judged:
        estimates = {"uniform": one.truth, **one.found._asdict()}
        told = ("{:.1f} ({:.1f}, {:.1f})".format(estimates[kind].value, *estimates[kind].ci95) for kind in kinds)
        made.add_row(one.campaign, *told, f"{one.effective:,.0f}", f"{one.largest:,.0f}")
    return made
