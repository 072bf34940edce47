"""A JSON file, one object a line or a list of them, as columns."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import polars as pl

from msd.dataset.problem import POLARS_ERRORS, short
from msd.dataset.text_file import UTF_8, UnreadableError, open_text

SERIES_ERRORS = (*POLARS_ERRORS, OverflowError, TypeError, ValueError)
_START = 60  # characters among which a list begins


def read_records(path: Path, encoding: str = UTF_8) -> list[Mapping[str, object]]:
    """Read objects, one per line or all in one list. Raises UnreadableError."""
    records: list[Mapping[str, object]] = []
    with open_text(path, encoding) as lines:
        if path.name.endswith((".json", ".json.gz")) and (listed := _json_list_of(lines)) is not None:
            records = listed
        else:
            for line in filter(str.strip, lines):
                try:
                    records.append(_is_object(json.loads(line), len(records) + 1))
                except (ValueError, RecursionError) as error:
                    raise UnreadableError(f"is not valid JSON: {error}", len(records) + 1) from None
    return records


def frame_of(records: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Return records as a table; a name that a record lacks is missing. Raises UnreadableError."""
    names = dict.fromkeys(name for record in records for name in record)
    return pl.DataFrame([column_of(name, [record.get(name) for record in records]) for name in names])


def _json_list_of(lines: TextIO) -> list[Mapping[str, object]] | None:
    """Read the objects of one JSON list; None, with nothing read, if the text is not one."""
    start = lines.read(_START)
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


def column_of(name: str, values: Sequence[object]) -> pl.Series:
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
        raise UnreadableError(f"{name} is {short(json.dumps(odd))}, of another type than other rows have", row)
    try:
        return pl.Series(name, values, strict=True)
    except SERIES_ERRORS as error:
        raise UnreadableError(f"{name} is not a value that a column can hold: {error}", _first_fault(values)) from None


def _json_list(name: str, value: object, row: int) -> list[str | None] | None:
    """Convert whole numbers to text, so that lists of strings and of numbers make one column."""
    if not isinstance(value, list):
        return None
    if any(one is not None and type(one) not in (str, int) for one in value):
        raise UnreadableError(
            f"{name} is {short(json.dumps(value))}, where the list may hold strings and whole numbers", row
        )
    return [None if one is None else str(one) for one in value]


def _first_fault(values: Sequence[object]) -> int | None:
    for row, value in enumerate(values, start=1):
        try:
            pl.Series([value], strict=True)
        except SERIES_ERRORS:
            return row
    return None
