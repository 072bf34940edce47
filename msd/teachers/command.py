"""`msd teach`: has a teacher write what it knows of a dataset's items and users."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from msd.dataset.config import DatasetConfig
from msd.dataset.load import load_dataset
from msd.teachers.collect import collect_knowledge
from msd.teachers.recorded import RecordedTeacher
from msd.teachers.teacher import Teacher

app = typer.Typer(add_completion=False)


class Backend(StrEnum):
    """The teachers to choose from."""

    RECORDED = "recorded"


@app.command("teach")
def teach(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset's folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for the knowledge.")],
    teacher: Annotated[Backend, typer.Option(help="Who answers.")] = Backend.RECORDED,
) -> None:
    """Writes what a teacher knows of each item and user. Started again, it goes on where it ended."""
    data = load_dataset(dataset)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(soft_wrap=True)
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name.removesuffix(".jsonl"), total=total)
            bars.update(tasks[name], completed=done)

        record = collect_knowledge(data, _teacher(teacher, data.config), out, advance)
    console.print(f"{out}: {record.items} items, {record.users} users, by {record.teacher}", highlight=False)


def _teacher(backend: Backend, config: DatasetConfig) -> Teacher:
    match backend:
        case Backend.RECORDED:
            return RecordedTeacher(config)
