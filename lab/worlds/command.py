"""`msd lab worlds`: measure ours, its rivals and the law on made and real logs, and print one table."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lab.benchmark.machine import machine_now
from lab.worlds.cell import MODELS, cell_of
from lab.worlds.drawing import draw_worlds
from lab.worlds.recipe import WorldError
from lab.worlds.run import Scope, run_worlds
from lab.worlds.world import WORLDS, Given
from msd.contract.files import write_text_atomic
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON in place of the table.")] = False,
) -> None:
    """Measure all models on made and real logs. If interrupted, run it again to resume."""
    given = Given(ml_100k, collm, headlines, rows, seed)
    chosen = tuple(models or MODELS)
    for model in chosen:
        cell_of(model)
    if odd := [name for name in names or () if name not in WORLDS]:
        raise WorldError(f"there is no world {odd[0]!r}; there are {', '.join(WORLDS)}")
    asked = {"collm": collm, "headlines": headlines}
    left_out = [name for name in asked if not names and asked[name] is None]
    due = names or [name for name in WORLDS if name not in left_out]
    if out.is_file():
        raise WorldError(f"{out} is a file; name a folder with --out")
    with bar(Console(stderr=True)) as heard:
        cells = iter(range(len(due) * (len(chosen) + 1)))
        found = run_worlds(
            given,
            out,
            Scope(due, chosen, auctions),
            lambda doing: heard(doing, next(cells, 0), len(due) * (len(chosen) + 1)),
        )
    figures = {"command": shlex.join(["msd", *sys.argv[1:]]), "seed": seed, "auctions": auctions, "worlds": found}
    text = json.dumps({**figures, "machine": machine_now()}, indent=2)
    write_text_atomic(out / "worlds.json", text + "\n")
    write_text_atomic(out / "worlds.svg", draw_worlds(found, MODELS))
    if as_json:
        typer.echo(text)
        return
    show([table_of(found)])
    for name in left_out:
        typer.echo(f"left out: {name}, because its data is not given (--{name})")
    typer.echo(f"{out}/worlds.json and worlds.svg have all figures")


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
