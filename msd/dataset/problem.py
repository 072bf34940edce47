"""What is wrong with a dataset, and where: problems are collected, so that one run shows all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msd.contract.errors import MsdError

_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One fault. `row` counts the rows of data from 1, a header not among them; `column` may be a TOML key."""

    file: str
    message: str
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row is not None else ""
        column = f", {self.column}" if self.column is not None else ""
        return f"{self.file}{row}{column}: {self.message}"


class DatasetError(MsdError):
    """A dataset cannot be used as it is; `problems` holds every fault found, the message the first of them."""

    def __init__(self, folder: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"the dataset in {folder} has {count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  … and {count - _SHOWN} more; `msd data check {folder}` shows them")
        super().__init__("\n".join(lines))
