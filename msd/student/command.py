"""Command `msd distill`: train the student on what the teacher wrote, and encode the catalogue with it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from msd.student.distill import DistillConfig
from msd.student.lessons import MIN_ITEMS
from msd.student.progress import Figures
from msd.student.record import StudentError, load_record
from msd.student.step import distill

app = typer.Typer(add_completion=False)


@app.command("distill")
def main(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATASET [KNOWLEDGE] OUT",
            help="The dataset's folder, the output of `msd teach`, and the student's folder. Without KNOWLEDGE the "
            "plain encoder reads the texts.",
        ),
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Most passes in the search, and over the catalogue.")] = 8,
    layers: Annotated[
        int | None, typer.Option(min=1, max=6, help="Keep the encoder's first N layers: wording rather than meaning.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the order and the held-out items.")] = 0,
    limit: Annotated[
        int, typer.Option(min=MIN_ITEMS, help="Most items, and users, to teach; all are encoded.")
    ] = DistillConfig.limit,
) -> None:
    """Train the student and encode all items and users. If interrupted, run it again to resume after the last epoch."""
    if not 2 <= len(folders) <= 3:
        raise StudentError(f"{len(folders)} folders are given; msd distill takes DATASET KNOWLEDGE OUT, or DATASET OUT")
    dataset, out, console = folders[0], folders[-1], Console()
    config = DistillConfig(layers=layers, epochs=epochs, seed=seed, limit=limit)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int, note: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, note=note)
            bars.update(tasks[name], completed=done, total=total, note=note)

        knowledge = folders[1] if len(folders) > 2 else None
        fresh = distill(dataset, knowledge, out, config, advance, lambda plan: console.print(plan, highlight=False))
    if not fresh:
        console.print(f"{out}: done before, nothing to do", highlight=False)
    record = load_record(out)
    if "knowledge" in record.metrics:
        console.print(_table(record.metrics["knowledge"]))
    else:
        kept = f", its first {layers} layers" if layers else " as it comes"
        console.print(f"{out}: {record.start}{kept}, taught by nobody", highlight=False)


def _table(knowledge: dict[str, Figures]) -> Table:
    """Return how well raw text finds its knowledge: with the plain encoder, and after search, rehearsal and
    catalogue."""
    table = Table("texts", "head", "recall@1", "recall@10", "cosine", box=None)
    for name, heads in knowledge.items():
        for head, figures in heads.items():
            cells = [f"{figures[key]:.3f}" for key in ("recall_1", "recall_10", "cosine")] if figures else ["–"] * 3
            table.add_row(name, head, *cells)
    return table
