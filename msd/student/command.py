"""`msd distill`: trains the student on what the teacher wrote, and encodes the catalogue with it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from msd.student.distill import DistillConfig
from msd.student.measure import Figures
from msd.student.record import load_record
from msd.student.step import distill

app = typer.Typer(add_completion=False)


@app.command("distill")
def main(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    knowledge: Annotated[Path, typer.Argument(metavar="KNOWLEDGE", help="The folder that `msd teach` wrote.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the student and its vectors.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes at most in the search, and over the catalogue.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Draws the order and what is held out.")] = 0,
) -> None:
    """Trains the student and encodes all items and users. Started again, it goes on after the last whole epoch."""
    console = Console()
    config = DistillConfig(epochs=epochs, seed=seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int, note: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, note=note)
            bars.update(tasks[name], completed=done, total=total, note=note)

        fresh = distill(dataset, knowledge, out, config, advance)
    if not fresh:
        console.print(f"{out}: done before, nothing to do", highlight=False)
    console.print(_table(load_record(out).metrics["knowledge"]))


def _table(knowledge: dict[str, Figures]) -> Table:
    """How well raw text finds its knowledge: plain encoder, after the search, after the pass over the catalogue."""
    table = Table("texts", "head", "recall@1", "recall@10", "cosine", box=None)
    for name, heads in knowledge.items():
        for head, figures in heads.items():
            cells = [f"{figures[key]:.3f}" for key in ("recall_1", "recall_10", "cosine")] if figures else ["–"] * 3
            table.add_row(name, head, *cells)
    return table
