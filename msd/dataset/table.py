"""A dataset's file, or a folder of parts, as a table: Parquet, CSV or JSON, by suffix. Does not know what columns
mean.
"""

import csv
import errno
import gzip
import io
import json
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TextIO

import polars as pl

from msd.contract.files import atomic_file
from msd.dataset.mapped import BLOCK
from msd.dataset.problem import Problem

_TEXT_ENDINGS = tuple(f".{name}{packed}" for name in ("csv", "tsv", "txt") for packed in ("", ".gz"))
FILE_ENDINGS = (".parquet", *_TEXT_ENDINGS, ".jsonl", ".jsonl.gz", ".ndjson", ".json")
_SHOWN_CHARS = 60
POLARS_ERRORS = (pl.exceptions.PolarsError, OSError, UnicodeError, pl.exceptions.PanicException)
_SERIES_ERRORS = (*POLARS_ERRORS, OverflowError, TypeError, ValueError)
_NO_PARQUET = "cannot be read as Parquet, it is damaged or of another format: {}"
_EMPTY = "is empty: it has no row of data"
_SEPARATORS = ",;\t|"
_GZIP, _ZIP, _UTF_16 = b"\x1f\x8b", b"PK\x03\x04", (b"\xff\xfe", b"\xfe\xff")


class UnreadableError(Exception):
    """A file is unreadable; `row` is where reading ended, if known."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Table:
    """A file's raw columns and problems. A CSV's columns are all text.

    `parts`: the files of a folder, with the number of rows before each. `rows`: which rows of the file are left, if not
    all. `zoned`: by column whether the times of this and of earlier blocks have a time zone.
    """

    file: str
    frame: pl.DataFrame
    problems: list[Problem] = field(default_factory=list)
    parts: Sequence[tuple[str, int]] = ()
    rows: pl.Series | None = None
    zoned: dict[str, set[bool]] = field(default_factory=dict)

    @property
    def textual(self) -> bool:
        """Whether numbers, too, are text."""
        return _is_textual(self.parts[0][0] if self.parts else self.file)

    def only(self, kept: pl.Series) -> "Table":
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
            except _SERIES_ERRORS:  # a time beyond Python's
                value = raw.to_physical()[row]
            shown = _short(repr(value.to_list() if isinstance(value, pl.Series) else value))
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


def read_table(folder: Path, file: str, problems: list[Problem]) -> Table | None:
    """Read a file of the dataset, or all files of a folder as one table. If it is unreadable or has no rows, note a
    problem and return None."""
    path = folder / file
    if path.is_dir():
        table = _read_parts(path, problems)
    elif path.is_file():
        frame = _read_file(path, file, problems)
        table = None if frame is None else Table(file, frame, problems)
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
    start, frame = 0, None
    zoned: dict[str, set[bool]] = {}
    while frame is None or frame.height == BLOCK:
        try:
            frame = pl.scan_parquet(_in_utf_8(path), glob=False).slice(start, BLOCK).collect()
        except UnreadableError as error:
            problems.append(Problem(file, str(error)))
            return
        except POLARS_ERRORS as error:
            problems.append(Problem(file, _NO_PARQUET.format(error)))
            return
        if not start and not frame.height:
            problems.append(Problem(file, _EMPTY))
        if frame.height:
            rows = pl.int_range(start, start + frame.height, eager=True)
            yield Table(file, frame, problems, rows=rows, zoned=zoned)
        start += BLOCK


def write_parquet(path: Path, frame: pl.DataFrame | pl.LazyFrame) -> None:
    """Write a table as Parquet, atomically, a lazy one by blocks. Raises OSError."""
    with atomic_file(path) as file:
        try:
            frame.lazy().sink_parquet(file)
        except pl.exceptions.ComputeError as error:  # Polars' word for a full disk
            raise OSError(errno.EIO, str(error), str(path)) from None


def _read_parts(path: Path, problems: list[Problem]) -> Table | None:
    """Read the files of a folder, and of nested folders, concatenated in the order of their names."""
    files = sorted(found for found in path.rglob("*") if found.is_file() and found.name.endswith(FILE_ENDINGS))
    names = [f"{path.name}/{found.relative_to(path)}" for found in files if not found.name.startswith((".", "_"))]
    if not names:
        problems.append(Problem(path.name, f"is a folder without a file that ends in {', '.join(FILE_ENDINGS)}"))
        return None
    if len({_is_textual(name) for name in names}) > 1:
        problems.append(Problem(path.name, f"holds CSV and other files, {names[0]} and {names[-1]}: keep one kind"))
        return None
    frames = [_read_file(path.parent / name, name, problems) for name in names]
    read = [(name, frame) for name, frame in zip(names, frames, strict=True) if frame is not None and frame.height]
    if problems or not read:
        return None if problems else Table(path.name, pl.DataFrame(), problems)
    first, columns = read[0][0], read[0][1].columns
    for name, frame in read:
        if sorted(frame.columns) != sorted(columns):
            other = sorted(set(columns) ^ set(frame.columns))
            message = f"its columns differ from those of {first}: only one of the two has {', '.join(other)}"
            problems.append(Problem(name, message))
            return None
    try:
        whole = pl.concat([frame.select(columns) for _, frame in read], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        problems.append(Problem(path.name, f"its files hold values of different types in one column: {error}"))
        return None
    starts = accumulate((frame.height for _, frame in read[:-1]), initial=0)
    parts = [(name, start) for (name, _), start in zip(read, starts, strict=True)]
    return Table(path.name, whole, problems, parts)


def _read_file(path: Path, file: str, problems: list[Problem]) -> pl.DataFrame | None:
    """Read a file; `file` is its name in problems."""
    try:
        if file.endswith(".parquet"):
            return _read_parquet(path)
        return _read_csv(path) if _is_textual(file) else _read_json(path)
    except UnreadableError as error:
        problems.append(Problem(file, str(error), error.row))
        return None


def _is_textual(file: str) -> bool:
    return file.endswith(_TEXT_ENDINGS)


@contextmanager
def _text_of(path: Path) -> Iterator[TextIO]:
    """Open the file as text, decompressed if necessary. Raises UnreadableError if it is not readable text."""
    start = _start_of(path)
    packed = path.suffix == ".gz"
    if packed and start and not start.startswith(_GZIP):
        raise UnreadableError("is not compressed by gzip, though its name ends in .gz: rename it, or compress it")
    if not packed and start.startswith(_GZIP):
        raise UnreadableError("is compressed by gzip: let its name end in .gz")
    if start == _ZIP:
        raise UnreadableError("is a spreadsheet or an archive (zip) by its first bytes: save it as CSV in UTF-8")
    if start[:2] in _UTF_16:
        raise UnreadableError("is text in UTF-16: save it as UTF-8")
    opened = gzip.open(path, "rt", encoding="utf-8-sig", newline="") if packed else None
    with opened or path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            yield lines
        except UnicodeDecodeError as error:
            raise UnreadableError(
                f"is not text in UTF-8 (a byte is {error.object[error.start]:#x}): save it so"
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UnreadableError(f"cannot be unpacked by gzip, it is damaged or cut short: {error}") from None


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None


def _in_utf_8(path: Path) -> Path:
    """Return a path that Polars can read. Raises UnreadableError for another."""
    _start_of(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UnreadableError("its path is not in UTF-8: rename its folder") from None
    return path


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(_in_utf_8(path))
    except POLARS_ERRORS as error:
        raise UnreadableError(_NO_PARQUET.format(error)) from None


def _read_csv(path: Path) -> pl.DataFrame:
    """Read all columns as text, without spaces around them, with empty cells as missing. Cells are separated as in the
    header."""
    separator = ","
    try:
        with _text_of(path) as lines:
            header = [lines.readline()]
            end = "\r" if header[0].endswith("\r") else "\n"
            separator = max(_SEPARATORS, key=lambda mark: _width(header, mark))
        with _text_of(path) as lines:
            names = next(csv.reader(lines, delimiter=separator), None)
        if names is None:
            return pl.DataFrame()
        if not names:
            raise UnreadableError("its first line is blank: let it be the columns' names")
        header = [name.strip() for name in names]
        if repeated := sorted(name for name, count in Counter(header).items() if count > 1):
            hint = "rename one, or add a header if its row is missing"
            raise UnreadableError(f"these columns occur twice in the header: {', '.join(map(repr, repeated))}; {hint}")
        try:
            frame = pl.read_csv(_in_utf_8(path), infer_schema=False, separator=separator, eol_char=end)
        except POLARS_ERRORS:
            if fault := _csv_fault(path, separator):
                raise fault from None
            frame = _with_stray_quotes(path, separator)
        frame.columns = header
    except (*POLARS_ERRORS, csv.Error) as error:
        raise UnreadableError(f"cannot be read as CSV (is a quote left open?): {error}") from None
    frame = frame.with_columns(pl.all().str.strip_chars().replace("", None))
    # Blank lines at the end go; others stay, because row numbers would change.
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    frame = frame.head(int(filled[-1]) + 1 if len(filled) else 0)
    # A truncated row has no value in its last column: only then is a second read worthwhile.
    if frame.height and frame.to_series(-1).null_count() and (fault := _csv_fault(path, separator)):
        raise fault
    return frame


def _with_stray_quotes(path: Path, separator: str) -> pl.DataFrame:
    """Read cells such as 15" screen, whose quotes Polars takes for open ones."""
    quoted = io.StringIO()
    with _text_of(path) as lines:
        csv.writer(quoted).writerows(csv.reader(lines, delimiter=separator))
    return pl.read_csv(io.BytesIO(quoted.getvalue().encode()), infer_schema=False)


def _width(header: list[str], separator: str) -> int:
    """Return the cells of a header; 0 if one is longer than `csv` reads."""
    try:
        return len(next(csv.reader(header, delimiter=separator), []))
    except csv.Error:
        return 0


def _csv_fault(path: Path, separator: str) -> UnreadableError | None:
    """Return the fault of a CSV file's first row that has more or fewer cells than the header, or cannot be read."""
    row = 0
    try:
        with _text_of(path) as lines:
            reader = csv.reader(lines, strict=True, delimiter=separator)
            width = len(next(reader))
            for row, cells in enumerate(reader, start=1):
                if cells and len(cells) != width:
                    hint = f"quote cells that hold {separator!r}" if len(cells) > width else "was it cut short?"
                    hint += ", or remove what stands above the header" if row == 1 else ""
                    return UnreadableError(f"has {len(cells)} cells where the header has {width}: {hint}", row)
    except csv.Error as error:
        return UnreadableError(f"cannot be read as CSV (is a quote left open?): {error}", row + 1)
    except UnreadableError as error:
        return UnreadableError(str(error), row + 1)
    return None


def _read_json(path: Path) -> pl.DataFrame:
    """Read objects, one per line or all in one list."""
    records: list[Mapping[str, object]] = []
    with _text_of(path) as lines:
        if path.name.endswith(".json") and (listed := _json_list_of(lines)) is not None:
            records = listed
        else:
            for line in filter(str.strip, lines):
                try:
                    records.append(_is_object(json.loads(line), len(records) + 1))
                except (ValueError, RecursionError) as error:
                    raise UnreadableError(f"is not valid JSON: {error}", len(records) + 1) from None
    names = dict.fromkeys(name for record in records for name in record)
    return pl.DataFrame([_json_column(name, [record.get(name) for record in records]) for name in names])


def _json_list_of(lines: TextIO) -> list[Mapping[str, object]] | None:
    """Read the objects of one JSON list; None, with nothing read, if the text is not one."""
    start = lines.read(_SHOWN_CHARS)
    lines.seek(0)
    if not start.lstrip().startswith("["):
        return None
    try:
        found = json.load(lines)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is not valid JSON: {error}") from None
    return [_is_object(record, row) for row, record in enumerate(found, 1)]


def _is_object(record: object, row: int) -> Mapping[str, object]:
    if not isinstance(record, dict):
        raise UnreadableError('should be a JSON object, such as {"user_id": "u1"}', row)
    return record


def _json_column(name: str, values: Sequence[object]) -> pl.Series:
    """Return a column of one type; strings and whole numbers may mix, because categories and IDs are often written as
    either."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str, int}:
        values = [value if value is None else str(value) for value in values]
    elif kinds == {int, float}:
        values = [float(value) if isinstance(value, int) and abs(value) < 2**63 else value for value in values]
    elif kinds == {list}:
        values = [_json_list(name, value, row) for row, value in enumerate(values, start=1)]
    elif len(kinds) > 1:
        usual = max(kinds, key=[type(value) for value in values].count)
        row, odd = next((row, v) for row, v in enumerate(values, 1) if v is not None and type(v) is not usual)
        raise UnreadableError(f"{name} is {_short(json.dumps(odd))}, of another type than other rows have", row)
    try:
        return pl.Series(name, values, strict=True)
    except _SERIES_ERRORS as error:
        raise UnreadableError(f"{name} is not a value that a column can hold: {error}", _first_fault(values)) from None


def _json_list(name: str, value: object, row: int) -> list[str | None] | None:
    """Convert whole numbers to text, so that lists of strings and of numbers make one column."""
    if not isinstance(value, list):
        return None
    if any(one is not None and type(one) not in (str, int) for one in value):
        raise UnreadableError(
            f"{name} is {_short(json.dumps(value))}, where the list may hold strings and whole numbers", row
        )
    return [None if one is None else str(one) for one in value]


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _first_fault(values: Sequence[object]) -> int | None:
    for row, value in enumerate(values, start=1):
        try:
            pl.Series([value], strict=True)
        except _SERIES_ERRORS:
            return row
    return None
