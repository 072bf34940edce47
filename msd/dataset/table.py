"""A dataset's file, or a folder of parts, as a table: Parquet, Avro, CSV or JSON, by suffix. Does not know what columns
mean.
"""

import errno
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import polars as pl

from msd.contract.files import atomic_file
from msd.dataset.csv_file import read_csv
from msd.dataset.json_file import SERIES_ERRORS, frame_of, read_records
from msd.dataset.mapped import BLOCK
from msd.dataset.nested import flat_frame, flatten
from msd.dataset.problem import POLARS_ERRORS, Problem, short
from msd.dataset.text_file import Found, UnreadableError, read_utf_8

_BINARY_ENDINGS = (".parquet", ".avro")
_TEXT_ENDINGS = tuple(f".{name}{packed}" for name in ("csv", "tsv", "txt") for packed in ("", ".gz"))
_JSON_ENDINGS = tuple(f".{name}{packed}" for name in ("jsonl", "ndjson", "json") for packed in ("", ".gz"))
FILE_ENDINGS = (".parquet", *_TEXT_ENDINGS, *_JSON_ENDINGS, ".avro")
_EMPTY = "is empty: it has no row of data"
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Table:
    """A file's raw columns and problems. A CSV's columns are all text.

    `parts`: the files of a folder, with the number of rows before each. `rows`: which rows of the file are left, if not
    all. `zoned`: by column whether the times of this and of earlier blocks have a time zone. `separator`: of cells, if
    the file is text.
    """

    file: str
    frame: pl.DataFrame
    problems: list[Problem] = field(default_factory=list)
    parts: Sequence[tuple[str, int]] = ()
    rows: pl.Series | None = None
    zoned: dict[str, set[bool]] = field(default_factory=dict)
    separator: str = ""

    @property
    def textual(self) -> bool:
        """Whether numbers, too, are text."""
        return _is_textual(self.parts[0][0] if self.parts else self.file)

    def only(self, kept: pl.Series) -> Self:
        """Return the rows where `kept` (boolean) is true; problems name them as in the file."""
        rows = pl.Series(range(self.frame.height)) if self.rows is None else self.rows
        kept = kept.fill_null(False)
        return replace(self, frame=self.frame.filter(kept), rows=rows.filter(kept))

    def flag(self, column: str, bad: pl.Series, message: str) -> None:
        """Note a problem for every row where `bad` (boolean) is true; the message follows the row's value."""
        raw = self.frame.get_column(column)
        for row in bad.fill_null(False).arg_true().to_list():
            try:
                value = raw[row]
            except SERIES_ERRORS:  # a time beyond Python's
                value = raw.to_physical()[row]
            shown = short(repr(value.to_list() if isinstance(value, pl.Series) else value))
            self.note(row, column, f"{shown} {message}", message)

    def flag_missing(self, column: str, advice: str = "") -> None:
        """Note a problem for every row without a value."""
        message = f"the value is missing{advice}"
        for row in self.frame.get_column(column).is_null().arg_true().to_list():
            self.note(row, column, message, message)

    def flag_column(self, column: str, message: str) -> None:
        """Note a problem of a whole column, once for all blocks."""
        if (problem := Problem(self.file, message, column=column)) not in self.problems:
            self.problems.append(problem)

    def note(self, row: int, column: str, message: str, fault: str) -> None:
        """Note a problem of a row, counted from 0 over all parts; `fault` is the message without its value."""
        row = row if self.rows is None else int(self.rows[row])
        file, start = self.file, 0
        if self.parts:
            file, start = self.parts[bisect_right([begin for _, begin in self.parts], row) - 1]
        self.problems.append(Problem(file, message, row - start + 1, column, fault))


def read_table(folder: Path, file: str, problems: list[Problem], found: Found | None = None) -> Table | None:
    """Read a file of the dataset, or, with `found`, a person's log; of a folder all files as one table. If it is
    unreadable or has no rows, note a problem and return None."""
    path = folder / file
    if path.is_dir():
        table = _read_parts(path, problems, found)
    elif path.is_file():
        read = _read_file(path, file, problems, found)
        table = None if read is None else Table(file, read[0], problems, separator=read[1])
    else:
        problems.append(Problem(file, "is missing: there is no such file in the dataset's folder"))
        return None
    if table is not None and not table.frame.height:
        problems.append(Problem(file, _EMPTY))
        return None
    return table


def read_blocks(folder: Path, file: str, problems: list[Problem]) -> Iterator[Table]:
    """Yield the rows of a Parquet file BLOCK at a time, of anything else at once, as `read_table` reads them."""
    path = folder / file
    if not (path.is_file() and file.endswith(".parquet")):
        yield from filter(None, [read_table(folder, file, problems)])
        return
    start, height = 0, BLOCK
    zoned: dict[str, set[bool]] = {}
    while height == BLOCK and (read := _read_file(path, file, problems, start=start)):
        height = read[0].height
        if height:
            rows = pl.int_range(start, start + height, eager=True)
            yield Table(file, read[0], problems, rows=rows, zoned=zoned)
        elif not start:
            problems.append(Problem(file, _EMPTY))
        start += BLOCK


def write_parquet(path: Path, frame: pl.DataFrame | pl.LazyFrame) -> None:
    """Write a table as Parquet, atomically, a lazy one by blocks. Raises OSError."""
    with atomic_file(path) as file:
        try:
            frame.lazy().sink_parquet(file)
        except pl.exceptions.ComputeError as error:  # Polars' word for a full disk
            raise OSError(errno.EIO, str(error), str(path)) from None


def _read_parts(path: Path, problems: list[Problem], found: Found | None) -> Table | None:
    """Read the files of a folder, and of nested folders, concatenated in the order of their names; folders such as
    `date=2024-05-01` are columns."""
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.name.endswith(FILE_ENDINGS))
    names = [f"{path.name}/{one.relative_to(path)}" for one in files if not one.name.startswith((".", "_"))]
    if not names:
        problems.append(Problem(path.name, f"is a folder without a file that ends in {', '.join(FILE_ENDINGS)}"))
        return None
    if len({_is_textual(name) for name in names}) > 1:
        problems.append(Problem(path.name, f"holds CSV and other files, {names[0]} and {names[-1]}: keep one kind"))
        return None
    read = [(name, _read_file(path.parent / name, name, problems, found)) for name in names]
    tables = [(name, _with_folders(*one, name), one[1]) for name, one in read if one is not None and one[0].height]
    if problems or not tables:
        return None if problems else Table(path.name, pl.DataFrame(), problems)
    first, columns, separator = tables[0][0], tables[0][1].columns, tables[0][2]
    for name, frame, _ in tables:
        if sorted(frame.columns) != sorted(columns):
            other = sorted(set(columns) ^ set(frame.columns))
            message = f"its columns differ from those of {first}: only one of the two has {', '.join(other)}"
            problems.append(Problem(name, message))
            return None
    try:
        whole = pl.concat([frame.select(columns) for _, frame, _ in tables], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        problems.append(Problem(path.name, f"its files hold values of different types in one column: {error}"))
        return None
    starts = accumulate((frame.height for _, frame, _ in tables[:-1]), initial=0)
    parts = [(name, start) for (name, *_), start in zip(tables, starts, strict=True)]
    return Table(path.name, whole, problems, parts, separator=separator)


def _with_folders(frame: pl.DataFrame, separator: str, name: str) -> pl.DataFrame:
    """Return a part's rows with the keys of its folders, as Hive writes them; a column of the file counts more. Beside
    columns with types, whole numbers are such."""
    pairs = (part.partition("=") for part in name.split("/")[1:-1])
    keys = {unquote(key): unquote(value) for key, mark, value in pairs if mark and key}
    values = {key: None if value == _NO_VALUE else value for key, value in keys.items() if key not in frame.columns}
    return frame.with_columns(_constant(value, bool(separator)).alias(key) for key, value in values.items())


def _constant(value: str | None, textual: bool) -> pl.Expr:
    if textual or value is not None and not re.fullmatch(r"0|[1-9]\d{0,17}", value):
        return pl.lit(value, pl.String)
    return pl.lit(value if value is None else int(value))


def _read_file(
    path: Path, file: str, problems: list[Problem], found: Found | None = None, start: int | None = None
) -> tuple[pl.DataFrame, str] | None:
    """Read a file, of Parquet only BLOCK rows from `start` on if that is given, and its separator, if it has one.
    `file`: its name in problems."""
    try:
        if file.endswith(_BINARY_ENDINGS):
            frame = _read_binary(path, start)
            return flat_frame(frame, found) if found else frame, ""
        content = read_utf_8(path, found)
        if _is_textual(file):
            return read_csv(content)
        records = read_records(content)
        return frame_of(flatten(records, found)[0] if found else records), ""
    except UnreadableError as error:
        problems.append(Problem(file, str(error), error.row))
    except OSError as error:
        problems.append(Problem(file, f"cannot be read: {error.strerror or error}"))
    return None


def _read_binary(path: Path, start: int | None) -> pl.DataFrame:
    with path.open("rb") as file:
        file.read(1)
    try:
        str(path).encode()
        if path.suffix == ".avro":
            return pl.read_avro(path)
        rows = pl.scan_parquet(path, glob=False)
        return (rows if start is None else rows.slice(start, BLOCK)).collect()
    except UnicodeEncodeError:
        raise UnreadableError("its path is not in UTF-8: rename its folder") from None
    except POLARS_ERRORS as error:
        kind = "Avro" if path.suffix == ".avro" else "Parquet"
        raise UnreadableError(f"cannot be read as {kind}, it is damaged or of another format: {error}") from None


def _is_textual(file: str) -> bool:
    return file.endswith(_TEXT_ENDINGS)
