"""Command `msd distill`: encode the catalogue and fit the student to what the teacher wrote."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from msd.report import bar
from msd.student.distill import DistillConfig
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
    layers: Annotated[
        int | None, typer.Option(min=1, max=6, help="Keep the encoder's first N layers: wording rather than meaning.")
    ] = None,
    users: Annotated[
        bool,
        typer.Option(help="Read texts of users, which `msd train --without user_knowledge` has no use for."),
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the held-out items.")] = 0,
) -> None:
    """Encode all items and users, and fit the student to the teacher's words."""
    if not 2 <= len(folders) <= 3:
        raise StudentError(f"{len(folders)} folders are given; msd distill takes DATASET KNOWLEDGE OUT, or DATASET OUT")
    dataset, out, console = folders[0], folders[-1], Console()
    knowledge = folders[1] if len(folders) > 2 else None
    config = DistillConfig(seed=seed, layers=layers, users=users)
    with bar(console, each=True) as advance:
        fresh = distill(dataset, knowledge, out, config, advance)
    if not fresh:
        console.print(f"{out}: done before, nothing to do", highlight=False)
    record = load_record(out)
    if record.metrics:
        console.print(_table(record.metrics))
    else:
        kept = f", its first {layers} layers" if layers else " as it comes"
        console.print(f"{out}: {record.start}{kept}, taught by nobody", highlight=False)


def _table(metrics: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Return how near the words guessed from raw text are to the teacher's, by a student that was not taught the
    held-out texts."""
    table = Table("texts", "lessons", "cosine", box=None)
    for level, parts in metrics.items():
        for part, figures in parts.items():
            table.add_row(level, part, f"{figures['cosine']:.3f}" if figures else "–")
    return table
