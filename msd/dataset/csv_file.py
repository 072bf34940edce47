"""CSV in UTF-8 as columns of text, with the separator of its header. Does not know what columns mean."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from io import BytesIO, StringIO, TextIOWrapper

import polars as pl

from msd.dataset.problem import POLARS_ERRORS
from msd.dataset.text_file import UnreadableError

_SEPARATORS = ",;\t|"
_SEPARATOR_LINE = re.compile(rb"sep=(.)\s*")
_PREFACE = 3  # rows of data before which a report's title and remarks may stand


def read_csv(content: bytes) -> tuple[pl.DataFrame, str]:
    """Read all columns as text, without spaces around them, with empty cells as missing, and return the separator,
    that of the header or of Excel's line `sep=;` above it. Raises UnreadableError."""
    if b"\n" not in content:  # as on old Macs
        content = content.replace(b"\r", b"\n")
    first, _, rest = content.partition(b"\n")
    given = _SEPARATOR_LINE.fullmatch(first)
    content, header = (rest, rest.partition(b"\n")[0]) if given else (content, first)
    separator = given[1].decode() if given else max(_SEPARATORS, key=lambda mark: _width(header.decode(), mark))
    try:
        names = next(_rows(content, separator), None)
        if names is None:
            return pl.DataFrame(), separator
        if not names:
            raise UnreadableError("its first line is blank: let it be the columns' names")
        frame = _frame(content, separator)
        frame.columns = _unique([name.strip() for name in names])
    except (*POLARS_ERRORS, csv.Error) as error:
        raise UnreadableError(f"cannot be read as CSV (is a quote left open?): {error}") from None
    frame = frame.with_columns(pl.all().str.strip_chars().replace("", None))
    # Blank lines at the end go; others stay, because row numbers would change.
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().arg_true()
    frame = frame.head(int(filled[-1]) + 1 if len(filled) else 0)
    # A truncated row has no value in its last column: only then is a second read worthwhile.
    if frame.height and frame.to_series(-1).null_count() and (fault := _fault(content, separator)):
        raise fault
    return frame, separator


def _unique(header: list[str]) -> list[str]:
    if repeated := sorted(name for name, count in Counter(header).items() if count > 1):
        hint = "rename one, or add a header if its row is missing"
        raise UnreadableError(f"these columns occur twice in the header: {', '.join(map(repr, repeated))}; {hint}")
    return header


def _frame(content: bytes, separator: str) -> pl.DataFrame:
    try:
        return pl.read_csv(content, infer_schema=False, separator=separator)
    except POLARS_ERRORS:
        if fault := _fault(content, separator):
            raise fault from None
    # Cells such as 15" screen, whose quotes Polars takes for open ones.
    quoted = StringIO()
    csv.writer(quoted).writerows(_rows(content, separator))
    return pl.read_csv(quoted.getvalue().encode(), infer_schema=False)


def _rows(content: bytes, separator: str, strict: bool = False) -> Iterator[list[str]]:
    """Return the rows of cells, the header first."""
    lines = TextIOWrapper(BytesIO(content), encoding="utf-8", newline="")
    return csv.reader(lines, strict=strict, delimiter=separator)


def _width(header: str, separator: str) -> int:
    """Return the cells of a header; 0 if one is longer than `csv` reads."""
    try:
        return len(next(csv.reader([header], delimiter=separator), []))
    except csv.Error:
        return 0


def _fault(content: bytes, separator: str) -> UnreadableError | None:
    """Return the fault of the first row that has more or fewer cells than the header, or cannot be read."""
    row, rows = 0, _rows(content, separator, strict=True)
    try:
        header = next(rows)
        width = len(header)
        for row, cells in enumerate(rows, start=1):
            if cells and len(cells) != width:
                hint = f"quote cells that hold {separator!r}" if len(cells) > width else "was it cut short?"
                hint += f", or remove what stands above the header, {header[0]!r}" if row < _PREFACE else ""
                return UnreadableError(f"has {len(cells)} cells where the header has {width}: {hint}", row)
    except csv.Error as error:
        return UnreadableError(f"cannot be read as CSV (is a quote left open?): {error}", row + 1)
    return None
