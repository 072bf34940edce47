"""`msd data`: fetch the example dataset, check any dataset."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from msd.dataset.check import Report, check_dataset
from msd.dataset.ml_100k import write_ml_100k

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Datasets: fetch the example, check your own.")
_SHOWN = 1000

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The dataset's folder.")]


@app.command("ml-100k")
def ml_100k(
    folder: Folder,
    wheel: Annotated[Path | None, typer.Option(help="The recbole wheel, if pip cannot reach a package index.")] = None,
) -> None:
    """Writes MovieLens-100K as a dataset folder; its dataset.toml explains each key."""
    console = Console()
    with console.status("Fetching MovieLens-100K"):
        written = write_ml_100k(folder, wheel)
    console.print(
        f"{folder}: {'written' if written else 'was there already, unchanged'}", highlight=False, soft_wrap=True
    )


@app.command("check")
def check(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Checks a dataset: every problem with file, row and column, and counts. Exit status 1 if there are problems."""
    report = check_dataset(folder)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    else:
        _print(report, Console())
    if report.problems:
        raise typer.Exit(1)


def _print(report: Report, console: Console) -> None:
    if report.problems:
        table = Table("file", "row", "column", "problem", title=_title(len(report.problems)), title_style="bold red")
        for problem in report.problems[:_SHOWN]:
            row = "" if problem.row is None else str(problem.row)
            table.add_row(*map(_plain, (problem.file, row, problem.column or "", problem.message)))
        console.print(table)
        if len(report.problems) > _SHOWN:
            console.print(f"… and {len(report.problems) - _SHOWN} more; --json lists them all")
    if report.counts:
        table = Table("count", "value", title="Rows that are in order" if report.problems else "No problems")
        for name, value in report.counts.items():
            table.add_row(name.replace("_", " "), _plain(str(value)))
        console.print(table)
    for note in report.notes:
        console.print(f"[bold]note[/bold] {_plain(note)}", highlight=False, soft_wrap=True)


def _title(count: int) -> str:
    return f"{count} problem{'' if count == 1 else 's'}"


def _plain(text: str) -> str:
    """Text from data: never read as markup."""
    return text.replace("[", "\\[")
