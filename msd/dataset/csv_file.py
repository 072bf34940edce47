"""A CSV file as columns of text, with the separator of its header. Does not know what columns mean."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

import polars as pl

from msd.dataset.problem import POLARS_ERRORS
from msd.dataset.text_file import (
    UTF_8,
    UTF_16_MARKS,
    Found,
    UnreadableError,
    encoding_of,
    in_utf_8,
    open_text,
    start_of,
)

_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"sep=(.)")
_PREFACE = 3  # rows of data before which a report's title and remarks may stand


class _Layout(NamedTuple):
    """How a file is written; `first`: the number of lines above the header, such as Excel's `sep=;`."""

    encoding: str
    separator: str
    end: str
    first: int


def read_csv(path: Path, found: Found | None = None) -> tuple[pl.DataFrame, str]:
    """Read all columns as text, without spaces around them, with empty cells as missing, and return the separator,
    that of the header. Raises UnreadableError, and Doubt if `found` leaves the encoding open."""
    encoding = UTF_8 if found is None else encoding_of(path, found)
    layout = _Layout(encoding, ",", "\n", 0)
    try:
        with open_text(path, encoding) as lines:
            header = lines.readline()
            given = _SEPARATOR_LINE.fullmatch(header.strip())
            header = lines.readline() if given else header
            end = "\r" if header.endswith("\r") else "\n"
            separator = given[1] if given else max(_SEPARATORS, key=lambda mark: _width([header], mark))
            layout = _Layout(encoding, separator, end, 1 if given else 0)
        with _rows(path, layout) as rows:
            names = next(rows, None)
        if names is None:
            return pl.DataFrame(), separator
        if not names:
            raise UnreadableError("its first line is blank: let it be the columns' names")
        frame = _frame(path, layout)
        frame.columns = _unique([name.strip() for name in names])
    except (*POLARS_ERRORS, csv.Error) as error:
        raise UnreadableError(f"cannot be read as CSV (is a quote left open?): {error}") from None
    frame = frame.with_columns(pl.all().str.strip_chars().replace("", None))
    # Blank lines at the end go; others stay, because row numbers would change.
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    frame = frame.head(int(filled[-1]) + 1 if len(filled) else 0)
    # A truncated row has no value in its last column: only then is a second read worthwhile.
    if frame.height and frame.to_series(-1).null_count() and (fault := _csv_fault(path, layout)):
        raise fault
    return frame, separator


def _unique(header: list[str]) -> list[str]:
    if repeated := sorted(name for name, count in Counter(header).items() if count > 1):
        hint = "rename one, or add a header if its row is missing"
        raise UnreadableError(f"these columns occur twice in the header: {', '.join(map(repr, repeated))}; {hint}")
    return header


def _frame(path: Path, layout: _Layout) -> pl.DataFrame:
    source: Path | BytesIO = in_utf_8(path)
    if layout.encoding != UTF_8 or layout.first or start_of(path)[:2] in UTF_16_MARKS:
        with open_text(path, layout.encoding) as lines:
            text = lines.read()
        source = BytesIO(text.split("\n", layout.first)[-1].encode())
    try:
        return pl.read_csv(source, infer_schema=False, separator=layout.separator, eol_char=layout.end)
    except POLARS_ERRORS:
        if fault := _csv_fault(path, layout):
            raise fault from None
    # Cells such as 15" screen, whose quotes Polars takes for open ones.
    quoted = StringIO()
    with _rows(path, layout) as rows:
        csv.writer(quoted).writerows(rows)
    return pl.read_csv(BytesIO(quoted.getvalue().encode()), infer_schema=False)


@contextmanager
def _rows(path: Path, layout: _Layout, strict: bool = False) -> Iterator[Iterator[list[str]]]:
    """Open the file's rows of cells, the header first."""
    with open_text(path, layout.encoding) as lines:
        for _ in range(layout.first):
            lines.readline()
        yield csv.reader(lines, strict=strict, delimiter=layout.separator)


def _width(header: list[str], separator: str) -> int:
    """Return the cells of a header; 0 if one is longer than `csv` reads."""
    try:
        return len(next(csv.reader(header, delimiter=separator), []))
    except csv.Error:
        return 0


def _csv_fault(path: Path, layout: _Layout) -> UnreadableError | None:
    """Return the fault of a CSV file's first row that has more or fewer cells than the header, or cannot be read."""
    row = 0
    try:
        with _rows(path, layout, strict=True) as rows:
            header = next(rows)
            width = len(header)
            for row, cells in enumerate(rows, start=1):
                if cells and len(cells) != width:
                    hint = f"quote cells that hold {layout.separator!r}" if len(cells) > width else "was it cut short?"
                    hint += f", or remove what stands above the header, {header[0]!r}" if row < _PREFACE else ""
                    return UnreadableError(f"has {len(cells)} cells where the header has {width}: {hint}", row)
    except csv.Error as error:
        return UnreadableError(f"cannot be read as CSV (is a quote left open?): {error}", row + 1)
    except UnreadableError as error:
        return UnreadableError(str(error), row + 1)
    return None
