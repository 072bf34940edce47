"""JSON in UTF-8, one object a line or a list of them, as columns."""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from msd.dataset.problem import POLARS_ERRORS, short
from msd.dataset.text_file import UnreadableError

SERIES_ERRORS = (*POLARS_ERRORS, OverflowError, TypeError, ValueError)


def read_records(content: bytes) -> list[Mapping[str, object]]:
    """Read objects, one per line or all in one list. Raises UnreadableError."""
    if content.lstrip().startswith(b"["):
        return [_is_object(record, row) for row, record in enumerate(_parsed(content, None), 1)]
    lines = filter(bytes.strip, content.splitlines())
    return [_is_object(_parsed(line, row), row) for row, line in enumerate(lines, 1)]


def _parsed(text: bytes, row: int | None) -> list[object]:
    try:
        parsed: list[object] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is not valid JSON: {error}", row) from None
    return parsed


def _is_object(record: object, row: int) -> Mapping[str, object]:
    if not isinstance(record, dict):
        raise UnreadableError('should be a JSON object, such as {"user_id": "u1"}', row)
    return record


def frame_of(records: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Return records as a table; a name that a record lacks is missing. A column has one type; strings and whole
    numbers may mix, because categories and IDs are often written as either. Raises UnreadableError."""
    names = dict.fromkeys(name for record in records for name in record)
    return pl.DataFrame([_column(name, [record.get(name) for record in records]) for name in names])


def _column(name: str, values: Sequence[object]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str, int}:
        values = [value if value is None else str(value) for value in values]
    elif kinds == {int, float}:
        values = [float(value) if isinstance(value, int) and abs(value) < 2**63 else value for value in values]
    elif kinds == {list}:
        values = [_texts(name, value, row) for row, value in enumerate(values, start=1)]
    elif len(kinds) > 1:
        usual = max(kinds, key=[type(value) for value in values].count)
        row, odd = next((row, v) for row, v in enumerate(values, 1) if v is not None and type(v) is not usual)
        raise UnreadableError(f"{name} is {short(json.dumps(odd))}, of another type than other rows have", row)
    try:
        return pl.Series(name, values, strict=True)
    except SERIES_ERRORS as error:
        row = next((row for row, value in enumerate(values, start=1) if not _fits(value)), 0)
        raise UnreadableError(f"{name} is not a value that a column can hold: {error}", row or None) from None


def _texts(name: str, value: object, row: int) -> list[str | None] | None:
    """Convert whole numbers to text, so that lists of strings and of numbers make one column."""
    if not isinstance(value, list):
        return None
    if any(one is not None and type(one) not in (str, int) for one in value):
        raise UnreadableError(
            f"{name} is {short(json.dumps(value))}, where the list may hold strings and whole numbers", row
        )
    return [None if one is None else str(one) for one in value]


def _fits(value: object) -> bool:
    try:
        pl.Series([value], strict=True)
    except SERIES_ERRORS:
        return False
    return True
