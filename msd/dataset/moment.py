"""Time columns of logs: seconds, milliseconds or microseconds since 1970, dates, ISO 8601 text."""

from dataclasses import replace
from typing import Literal

import polars as pl

from msd.dataset.column import parsed_times, read_times
from msd.dataset.table import Table

Unit = Literal["date", "s", "ms", "us"]
EARLIEST, _UNTIL = 631_152_000, 4_102_444_800  # the years 1990 and 2100: other numbers are seldom times
_SCALE: dict[Unit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000}
_SAMPLE = 1_000


def time_unit(values: pl.Series) -> Unit | None:
    """Return the unit of the values, judged by the first thousand; None if they are not times."""
    values = values.drop_nulls().head(_SAMPLE)
    if values.is_empty():
        return None
    if values.dtype in (pl.Datetime, pl.Date):
        return "date"
    if values.dtype == pl.String:
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
        if numbers.null_count() == numbers.len():
            return "date" if parsed_times(values).null_count() == 0 else None
    elif values.dtype.is_numeric():
        numbers = values.cast(pl.Float64)
    else:
        return None
    if numbers.null_count():
        return None
    for unit, scale in _SCALE.items():
        if bool(numbers.is_between(EARLIEST * scale, _UNTIL * scale).all()):
            return unit
    return None


def read_moments(table: Table, column: str) -> pl.Series:
    """Return Unix seconds; invalid times are noted in the table with their row."""
    scale = _SCALE.get(time_unit(table.frame.get_column(column)) or "s", 1)
    if scale > 1:
        number = pl.col(column).cast(pl.Float64, strict=False)
        seconds = pl.when(number.is_not_null()).then(number / scale)
        raw = table.frame.get_column(column)
        # Non-numeric text stays unchanged for the message.
        scaled = pl.coalesce(seconds.cast(pl.String), pl.col(column)) if raw.dtype == pl.String else seconds
        table = replace(table, frame=table.frame.with_columns(scaled.alias(column)))
    return read_times(table, column)
