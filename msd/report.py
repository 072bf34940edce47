"""Output of long work: progress, tables, and files of figures and drawings. Knows nothing about the work."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

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

from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic


class Heard(Protocol):
    """Callback that gets the current step, the done and total amounts, and a note to show beside them."""

    def __call__(self, doing: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def bar(console: Console | None = None, *, each: bool = False, refresh: bool = True) -> Iterator[Heard]:
    """Show a progress bar within the block, or one for `each` step.

    Without `refresh` it is drawn only on updates, and takes no CPU from measured services.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    more = (TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
    with Progress(*columns, *more, console=console or Console(stderr=True), auto_refresh=refresh) as bars:
        tasks: dict[str, TaskID] = {} if each else {"": bars.add_task("Starting", total=None, note="")}

        def heard(doing: str, done: int, total: int, note: str = "") -> None:
            name = doing if each else ""
            if name not in tasks:
                tasks[name] = bars.add_task(doing, note="")
            # A full bar stops its clock, but it may start again, as for the next epoch.
            bars.tasks[tasks[name]].finished_time = None
            bars.update(tasks[name], description=doing, completed=done, total=total, note=note, refresh=not refresh)

        yield heard


def table(title: str | None, columns: Iterable[str], *, texts: int = 1) -> Table:
    """Return an empty table without lines: the first `texts` columns hold text, the others right-aligned numbers."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold")
    for place, name in enumerate(columns):
        made.add_column(name, justify="left" if place < texts else "right")
    return made


def show(tables: Iterable[Table]) -> None:
    """Print tables one below the other."""
    console = Console()
    for one in tables:
        console.print(one)


def check_writable(figures: Path | None) -> None:
    """Raise MsdError, before anything is measured, if figures could not be written afterwards."""
    if figures is None:
        return
    if figures.suffix != ".json":
        raise MsdError(f"--out {figures}: must end in .json; pictures of the same name are written beside it")
    folder = next(parent for parent in figures.absolute().parents if parent.exists())
    if figures.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise MsdError(f"--out {figures}: cannot be written; {folder} is not a writable folder")


def write_figures(path: Path | None, figures: Mapping[str, Any], beside: Mapping[str, str] | None = None) -> None:
    """Write figures as JSON, and texts beside them, by suffix; nothing if `path` is None."""
    if path is None:
        return
    texts = {path: json.dumps(figures, indent=2) + "\n"}
    texts |= {path.with_name(f"{path.stem}{ending}"): text for ending, text in (beside or {}).items()}
    for one, text in texts.items():
        write_text_atomic(one, text)
    Console().print(f"written: {', '.join(map(str, texts))}", highlight=False, soft_wrap=True)
