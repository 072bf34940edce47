"""Problems of a dataset with their place, collected so that one run shows all."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from msd.contract.errors import MsdError

POLARS_ERRORS = (pl.exceptions.PolarsError, OSError, UnicodeError, pl.exceptions.PanicException)
_SHOWN, _WAYS, _SHOWN_CHARS = 20, 4, 60
_ALIKE = 3  # rows with the same fault that are listed one by one


@dataclass(frozen=True)
class Problem:
    """One fault. `row` counts the data rows from 1, without a header; `column` can be a TOML key.

    `fault`: the message without the row's own value.
    """

    file: str
    message: str
    row: int | None = None
    column: str | None = None
    fault: str = field(default="", compare=False)

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row is not None else ""
        column = f", {self.column}" if self.column is not None else ""
        return f"{self.file}{row}{column}: {self.message}"


def short(text: str) -> str:
    """Return the start of a long text."""
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def lines_of(problems: Sequence[Problem], shown: int = _SHOWN) -> list[str]:
    """Return one line per problem, joining many rows with the same fault; after `shown` lines, the number left out."""
    groups: dict[tuple[str, str | None, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.file, problem.column, problem.fault or str(problem)), []).append(problem)
    lines: list[tuple[str, int]] = []
    for first, *others in groups.values():
        if len(others) >= _ALIKE:
            lines.append((f"{first} (and so in {len(others):,} more rows)", 1 + len(others)))
        else:
            lines += [(str(one), 1) for one in (first, *others)]
    left = sum(count for _, count in lines[shown:])
    return [line for line, _ in lines[:shown]] + ([f"… and {left:,} more"] if left else [])


class InitError(MsdError):
    """A dataset cannot be made from these files, or not in that folder."""


class Doubt(InitError):
    """The log alone does not tell: a person has to, by an option of `msd data init`.

    `choices`: the option's likely values, with what each means. `otherwise`: what else helps, after the options.
    """

    def __init__(self, question: str, option: str, choices: Mapping[str, str], otherwise: str = "") -> None:
        self.question, self.option, self.choices = question, option, choices
        values = [shlex.quote(choice) for choice in list(choices)[:_WAYS]] or ["COLUMN"]
        ways = " or ".join(f"--{option.replace('_', '-')} {value}" for value in values)
        super().__init__(f"{question}; give {ways}{otherwise}")


class ArchiveError(MsdError):
    """A file is not the expected archive, or is unusable."""


class DatasetError(MsdError):
    """A dataset is invalid; `problems` holds every fault, the message the first of them."""

    def __init__(self, folder: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"the dataset in {folder} has {count} problem{'s' if count > 1 else ''}:"]
        lines += [f"  {line}" for line in lines_of(self.problems)]
        if count > _SHOWN:
            lines.append(f"  `msd data check {folder} --json` lists them all")
        super().__init__("\n".join(lines))
