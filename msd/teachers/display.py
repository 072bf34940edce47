"""Output of `msd teach`: progress with rate, tokens, cost and time left; and estimates."""

import time
from types import TracebackType
from typing import Self

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

from msd.teachers.collect import Stage
from msd.teachers.estimate import TeachingEstimate
from msd.teachers.prompts import ANSWER_TOKENS
from msd.teachers.teacher import Prices, Usage


class Display:
    """One progress bar per round of questions."""

    def __init__(self, console: Console, prices: Prices, seed_prices: Prices) -> None:
        self._prices, self._seed_prices = prices, seed_prices
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, tuple[TaskID, int, float]] = {}

    def show(self, stage: Stage) -> None:
        """Update the bar of a stage."""
        if stage.name not in self._tasks:
            task = self._bars.add_task(stage.name, total=stage.total, figures="")
            self._tasks[stage.name] = task, stage.done, time.perf_counter()
        task, before, start = self._tasks[stage.name]
        prices = self._seed_prices if stage.name.startswith("seeds") else self._prices
        figures = ""
        if stage.usage != Usage():
            rate = (stage.done - before) / max(time.perf_counter() - start, 1e-9)
            figures = f"{rate:.2g}/s, {tokens_and_cost(stage.usage, prices)}"
        self._bars.update(task, completed=stage.done, figures=figures)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


def tokens_and_cost(usage: Usage, prices: Prices) -> str:
    """Return tokens in and out, and their cost if prices are known."""
    cost = f", cost {prices.cost(usage):.4f}" if prices != Prices() else ""
    return f"tokens {usage.read:,} in, {usage.written:,} out{cost}"


def summary(name: str, due: TeachingEstimate, prices: Prices) -> str:
    """Return an estimate in one line."""
    length = f"an answer as long as the {due.measured} so far" if due.measured else f"{ANSWER_TOKENS} an answer"
    return f"{name}: {due.questions:,} questions, about {tokens_and_cost(due.usage, prices)} ({length})"
