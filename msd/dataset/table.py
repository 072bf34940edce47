"""One file of a dataset as a table: Parquet, CSV or JSONL by its ending. Does not know what columns mean."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from msd.dataset.problem import Problem

_SHOWN_CHARS = 60
_POLARS_ERRORS = (pl.exceptions.PolarsError, OSError, UnicodeError, pl.exceptions.PanicException)

_SERIES_ERRORS = (*_POLARS_ERRORS, OverflowError, TypeError, ValueError)


class UnreadableError(Exception):
    """A file cannot be read at all; `row` is where reading ended, if that is known."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Table:
    """A file's raw columns and what was found wrong in them. A CSV's columns are all text."""

    file: str
    frame: pl.DataFrame
    problems: list[Problem] = field(default_factory=list)

    @property
    def textual(self) -> bool:
        """Whether numbers, too, are held as text."""
        return self.file.endswith(".csv")

    def flag(self, column: str, bad: pl.Series, message: str) -> None:
        """Notes a problem for every row where `bad` (boolean) is true; the message follows the row's value."""
        raw = self.frame.get_column(column)
        for row in bad.fill_null(False).arg_true().to_list():
            value = raw[row]
            shown = repr(value.to_list() if isinstance(value, pl.Series) else value)
            shown = shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"
            self.problems.append(Problem(self.file, f"{shown} {message}", row + 1, column))

    def flag_missing(self, column: str) -> None:
        """Notes a problem for every row without a value."""
        for row in self.frame.get_column(column).is_null().arg_true().to_list():
            self.problems.append(Problem(self.file, "the value is missing", row + 1, column))

    def flag_column(self, column: str, message: str) -> None:
        """Notes a problem of a whole column."""
        self.problems.append(Problem(self.file, message, column=column))


def read_table(folder: Path, file: str, problems: list[Problem]) -> Table | None:
    """Reads a file of the dataset; None, and a problem, if that cannot be done or if it has no rows."""
    path = folder / file
    if not path.is_file():
        problems.append(Problem(file, "is missing: there is no such file in the dataset's folder"))
        return None
    try:
        frame = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}[path.suffix](path)
    except UnreadableError as error:
        problems.append(Problem(file, str(error), error.row))
        return None
    if not frame.height:
        problems.append(Problem(file, "is empty: it has no row of data"))
        return None
    return Table(file, frame, problems)


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except _POLARS_ERRORS as error:
        raise UnreadableError(f"cannot be read as Parquet, it is damaged or of another format: {error}") from None


def _read_csv(path: Path) -> pl.DataFrame:
    """All columns as text, an empty cell being a missing value."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
        if repeated := sorted({name for name in header if header.count(name) > 1}):
            raise UnreadableError(f"these columns occur twice in the header: {', '.join(repeated)}")
        if not header:
            return pl.DataFrame()
        frame = _without_blank_end(pl.read_csv(path, infer_schema=False))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not text in UTF-8 ({error}): save it as UTF-8") from None
    except (*_POLARS_ERRORS, csv.Error) as error:
        hint = "cannot be read as CSV (is a quote left open?)"
        raise _csv_fault(path) or UnreadableError(f"{hint}: {error}") from None
    # A row cut short has no value in its last column: only then is it worth reading the file once more to find it.
    if frame.height and frame.to_series(-1).null_count() and (fault := _csv_fault(path)):
        raise fault
    return frame


def _without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    """Without blank lines at the end; one further up stays, or the rows below it would be misnumbered."""
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    return frame.head(int(filled[-1]) + 1 if len(filled) else 0)


def _csv_fault(path: Path) -> UnreadableError | None:
    """Finds the first row of a CSV file that has more or fewer cells than the header, or cannot be read."""
    row = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            width = len(next(reader))
            for row, cells in enumerate(reader, start=1):
                if cells and len(cells) != width:
                    return UnreadableError(f"has {len(cells)} cells where the header has {width}", row)
    except UnicodeDecodeError as error:
        return UnreadableError(f"is not text in UTF-8 ({error}): save it as UTF-8", row + 1)
    except csv.Error as error:
        return UnreadableError(f"cannot be read as CSV: {error}", row + 1)
    return None


def _read_jsonl(path: Path) -> pl.DataFrame:
    records: list[Mapping[str, object]] = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if line.strip():
                    records.append(_json_object(line, len(records) + 1))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"is not text in UTF-8 ({error}): save it as UTF-8", len(records) + 1) from None
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from None
    names = dict.fromkeys(name for record in records for name in record)
    return pl.DataFrame([_json_column(name, [record.get(name) for record in records]) for name in names])


def _json_object(line: str, row: int) -> Mapping[str, object]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is not valid JSON: {error}", row) from None
    if not isinstance(record, dict):
        raise UnreadableError('should be a JSON object, such as {"user_id": "u1"}', row)
    return record


def _json_column(name: str, values: Sequence[object]) -> pl.Series:
    """A column of one type; strings and whole numbers may mix, for categories and ids are often written as either."""
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
        raise UnreadableError(f"{name} is {_short(odd)}, of another type than other rows have", row)
    try:
        return pl.Series(name, values, strict=True)
    except _SERIES_ERRORS as error:
        raise UnreadableError(f"{name} is no value that a column can hold: {error}", _first_fault(values)) from None


def _json_list(name: str, value: object, row: int) -> list[str | None] | None:
    """Whole numbers as text, so that lists of strings and of numbers make one column."""
    if not isinstance(value, list):
        return None
    if any(one is not None and type(one) not in (str, int) for one in value):
        raise UnreadableError(f"{name} is {_short(value)}, where the list may hold strings and whole numbers", row)
    return [None if one is None else str(one) for one in value]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


def _first_fault(values: Sequence[object]) -> int | None:
    for row, value in enumerate(values, start=1):
        try:
            pl.Series([value], strict=True)
        except _SERIES_ERRORS:
            return row
    return None
