"""How far a long measurement is, for whoever waits for it. Knows nothing of what is measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Heard(Protocol):
    """Hears what is being done, and how much of it, of how much."""

    def __call__(self, doing: str, done: int, total: int) -> None: ...


@contextmanager
def bar() -> Iterator[Heard]:
    """A bar on the terminal, for as long as the block lasts."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # Drawn when there is news: a bar that moves by itself would take its time from the services.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bars:
        drawn = bars.add_task("Starting", total=None)

        def heard(doing: str, done: int, total: int) -> None:
            bars.update(drawn, description=doing, completed=done, total=total, refresh=True)

        yield heard
