"""Nested records → flat ones with dotted names; a list of ads becomes rows.

Knows lists of keys and values, as BigQuery's `labels: [{key, value}]` and the parameters of GA4's export.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from msd.dataset.json_file import frame_of
from msd.dataset.text_file import Found, UnreadableError

Record = Mapping[str, Any]
_KEYS, _VALUES = ("key", "name"), ("value", "values")


def flat_frame(frame: pl.DataFrame, found: Found) -> pl.DataFrame:
    """Return a table of Parquet or Avro with nested columns as flat ones."""
    nested = [column.name for column in frame if _is_nested(column.dtype)]
    if not nested:
        return frame
    records, rows = flatten(frame.select(nested).to_dicts(), found)
    flat = frame_of(records)
    if twice := sorted(set(flat.columns) & set(frame.columns) - set(nested)):
        raise UnreadableError(f"has a column {twice[0]} beside the nested one: rename it")
    return frame.drop(nested)[rows].hstack(flat)


def _is_nested(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Struct) or (isinstance(dtype, pl.List | pl.Array) and _is_nested(dtype.inner))  # type: ignore[arg-type]


def flatten(records: Sequence[Record], found: Found) -> tuple[list[Record], list[int]]:
    """Return flat records, and from which record each comes. Raises UnreadableError if two lists hold objects."""
    flat: list[Record] = [_flat(record) for record in records]
    lists = dict.fromkeys(name for record in flat for name, value in record.items() if _is_objects(value))
    if not lists:
        return flat, list(range(len(flat)))
    if len(lists) > 1:
        raise UnreadableError(
            f"{' and '.join(lists)} both hold lists of objects, so it is open what a row is: write an impression a row"
        )
    (name,) = lists
    rows: list[Record] = []
    sources: list[int] = []
    for source, record in enumerate(flat):
        entries: Sequence[Record] = record.get(name) or ()
        for one in entries:
            # An ad may hold objects in turn, but no further list of them.
            rows.append({key: value for key, value in record.items() if key != name} | _flat(one, f"{name}."))
            sources.append(source)
    if deeper := next((key for row in rows for key, value in row.items() if _is_objects(value)), None):
        raise UnreadableError(f"{deeper} holds a list of objects within another: write an impression a row")
    found.note(f"each entry of {name} is a row")
    return rows, sources


def _flat(record: Record, before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in _leaves(record, before):
        if name in flat:
            raise UnreadableError(f"has {name} twice, once nested: rename it")
        flat[name] = value
    return flat


def _leaves(record: Record, before: str) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.")
        elif pairs := _pairs(value):
            yield from _leaves(pairs, f"{path}.")
        else:
            yield path, value


def _pairs(value: object) -> dict[str, Any] | None:
    """Return a list of objects with a key and a value each as one object; None for another value, or if keys repeat."""
    if not _is_objects(value):
        return None
    for key in _KEYS:
        for held in _VALUES:
            if all(one is not None and one.keys() == {key, held} for one in value):  # type: ignore[attr-defined]
                pairs = {str(one[key]): _typed(one[held]) for one in value}  # type: ignore[attr-defined]
                return pairs if len(pairs) == len(value) else None  # type: ignore[arg-type]
    return None


def _typed(value: object) -> object:
    """Return the one value of an object with a field for each type, such as `string_value`."""
    if isinstance(value, Mapping) and value and all(str(name).endswith("_value") for name in value):
        present = [one for one in value.values() if one is not None]
        return present[0] if len(present) == 1 else None if not present else value
    return value


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(one, Mapping) for one in value)
