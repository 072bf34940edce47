"""Raw columns → canonical ones, one function per kind: each notes every invalid value, and returns null for it."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from msd.contract.request import ANONYMOUS_PREFIX
from msd.contract.schema import MAX_VALUE_CHARS
from msd.dataset.config import PART_NAMES
from msd.dataset.table import Table

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

MAX_ID_BYTES = 256
_LONGEST_VALUE = f"the maximum of {MAX_VALUE_CHARS} characters for a category"
LATEST = 2**33  # Unix seconds, in the year 2242: later times are milliseconds mistaken for seconds
_LARGEST_COUNT = 2**40
_ZONE = r"\d([Zz]|\s?UTC|[+-]\d\d(:?\d\d)?)\s*$"
EARLIEST, _UNTIL = 631_152_000, 4_102_444_800  # the years 1990 and 2100: other numbers are seldom times
_SCALE = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
ISO = "ISO 8601"
_DIGITS = ("%Y%m%d", "%y%m%d%H", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S")
_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = (
    *(date + clock for date in _DATES for clock in _CLOCKS),
    *("%d/%b/%Y:%H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT"),
)
_TIMELY = re.compile(r"time|date|day|hour|datum|zeit|(^|_)(ts|dt|at)$", re.IGNORECASE)
_ID = re.compile(r"(^|[^A-Za-z])(id|Id|ID)$|[a-z]I[dD]$")
_LONGEST = 20 * 366 * 86_400  # seconds
_SAMPLE = 1_000
FEATURE_TYPES: dict[str, pl.DataType] = {
    "categorical": pl.String(),
    "bag": pl.List(pl.String()),
    "numeric": pl.Float64(),
}


def is_anonymous(user_id: str = "user_id") -> pl.Expr:
    """Return whether each user is that of an anonymous request."""
    return pl.col(user_id).str.starts_with(ANONYMOUS_PREFIX)


def read_user_ids(table: Table, column: str) -> pl.Series:
    """Return the users of events: IDs, or the stand-ins of anonymous requests, as `msd join` writes them."""
    return read_ids(table, column, ANONYMOUS_PREFIX)


def read_ids(table: Table, column: str, prefix: str = "") -> pl.Series:
    """Return IDs as text: not missing, not empty, at most 256 bytes, no NUL character, after `prefix` if they have
    it."""
    ids = _as_text(table, column)
    table.flag_missing(column, "; leave the row out")
    own = ids.str.strip_prefix(prefix)
    faults = {
        "is an empty id": own == "",
        f"exceeds the maximum of {MAX_ID_BYTES} bytes for an id": own.str.len_bytes() > MAX_ID_BYTES,
        "holds a NUL character": own.str.contains("\0", literal=True),
    }
    return _sound(table, column, ids, faults)


def read_unique_ids(table: Table, column: str) -> pl.Series:
    """Return the IDs of a table with one row per ID."""
    ids = read_ids(table, column)
    repeated = ids.is_not_null() & ids.is_first_distinct().not_()
    return _sound(table, column, ids, {"repeats the id of an earlier row; keep one": repeated})


def whole_ids(raw: pl.Series) -> pl.Series:
    """Return a log's IDs without the fraction that missing values bring to whole numbers."""
    present = raw.drop_nulls()
    if raw.dtype.is_float() and bool((present == present.round()).all()):
        return raw.cast(pl.Int64, strict=False)
    if raw.dtype == pl.String and bool(present.str.contains(r"^\d+\.0$").all()):
        return raw.str.strip_suffix(".0")
    return raw


def read_labels(table: Table, column: str, what: str = "click") -> pl.Series:
    """Return labels, of clicks or of another outcome `what`, as 0 or 1 (Int8)."""
    numbers = _as_numbers(table, column)
    table.flag_missing(column)
    other = numbers.is_in([0.0, 1.0]).not_()
    return _sound(table, column, numbers, {f"should be 0 (no {what}) or 1 ({what})": other}).cast(pl.Int8)


def read_whole_numbers(table: Table, column: str) -> pl.Series:
    """Return counts, Int64: none missing, negative, fractional or too large."""
    numbers = _as_numbers(table, column)
    table.flag_missing(column)
    other = (numbers.is_finite() & (numbers == numbers.floor()) & numbers.is_between(0, _LARGEST_COUNT)).not_()
    return _sound(table, column, numbers, {"should be a count: a whole number of at least 0": other}).cast(pl.Int64)


def read_times(table: Table, column: str, *, optional: bool = False) -> pl.Series:
    """Return Unix seconds (Int64) from numbers, dates or ISO 8601 text; a time without a zone is UTC. Missing times are
    noted unless `optional`."""
    raw = table.frame.get_column(column)
    if isinstance(raw.dtype, pl.Datetime | pl.Date):
        seconds = raw.dt.epoch("s").cast(pl.Float64)
    elif raw.dtype == pl.String:
        seconds = _parsed_times(raw)
        table.flag(column, raw.is_not_null() & seconds.is_null(), "is neither unix seconds nor an ISO 8601 time")
        _flag_zones(table, column, raw)
    else:
        seconds = _as_numbers(table, column)
    if not optional:
        table.flag_missing(column)
    outside = seconds.is_between(0, LATEST, closed="left").not_()
    message = "is not a time between 1970 and 2242 in unix seconds (is it in milliseconds?)"
    return _sound(table, column, seconds, {message: outside}).floor().cast(pl.Int64)


def _flag_zones(table: Table, column: str, raw: pl.Series) -> None:
    """Note times without a zone, if others of the column, also of earlier blocks, have one."""
    clock, zoned = raw.str.contains(r"\d:\d"), raw.str.contains(_ZONE)
    kinds = table.zoned.setdefault(column, set())
    kinds |= set(zoned.filter(clock.fill_null(False)))
    if len(kinds) == 2 and (clock & ~zoned).any():
        table.flag(column, clock & ~zoned, "has no time zone, but other rows have one: add it, such as Z for UTC")
    elif len(kinds) == 2:
        table.flag_column(column, "has times with a time zone and without one: add it, such as Z for UTC")


def sample_of(values: pl.Series) -> pl.Series:
    """Return about a thousand of the values that are not missing."""
    present = values.drop_nulls()
    return present.gather_every(max(1, present.len() // _SAMPLE))


def time_forms(values: pl.Series, given: str | None = None) -> list[str]:
    """Return how the values, judged by a thousand, may be read as times: in "s", "ms", "us" or "ns", as ISO, or by
    formats of strptime, or by the `given` one only. Empty if they are no times. Unless the column's name suggests a
    time, digits such as 14102100 are none, nor are numbers of an ID or of more than 20 years."""
    shown = sample_of(values)
    if shown.is_empty():
        return []
    if shown.dtype in (pl.Datetime, pl.Date):
        return [ISO]
    if shown.dtype != pl.String and not shown.dtype.is_numeric():
        return []
    texts = shown.cast(pl.String).str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    if numbers.null_count() == 0:
        units = [unit for unit, scale in _SCALE.items() if _is_all(numbers, EARLIEST * scale, _UNTIL * scale)]
        formats = list(_DIGITS)
        if not _TIMELY.search(values.name):
            apart = (numbers - numbers[0]).abs()
            units = [unit for unit in units if _is_all(apart, 0, _LONGEST * _SCALE[unit])]
            units, formats = [] if _ID.search(values.name) else units, []
    else:
        units = [ISO] if _parsed(texts, _iso_seconds).null_count() == 0 else []
        formats = list(_FORMATS) if numbers.null_count() == numbers.len() else []
    if units and not given:
        return units
    # The first value rules out most formats.
    formats = [form for form in ([given] if given else formats) if _reader(form)(texts[0]) is not None]
    return [form for form in formats if _is_all(_parsed(texts, _reader(form)), EARLIEST, _UNTIL)]


def read_moments(table: Table, column: str, form: str | None = None, *, optional: bool = False) -> pl.Series:
    """Return Unix seconds of times in a form that `time_forms` returns, by default the column's first; invalid times
    are noted in the table with their row."""
    raw = table.frame.get_column(column)
    if form is None:
        form = next(iter(time_forms(raw)), "s")
    if form in (ISO, "s"):
        return read_times(table, column, optional=optional)
    if not optional:
        table.flag_missing(column)
    if scale := _SCALE.get(form):
        found = raw.cast(pl.Float64, strict=False) / scale
        found = found.set(found.is_between(0, LATEST, closed="left").not_(), None)
    else:
        found = _parsed(raw.cast(pl.String), _reader(form))
    table.flag(column, raw.is_not_null() & found.is_null(), f"is not a time of the form {form}")
    return found.floor().cast(pl.Int64)


def read_categorical(table: Table, column: str) -> pl.Series:
    """Return categories as text; whole numbers become their digits."""
    values = _as_text(table, column)
    return _sound(table, column, values, {f"exceeds {_LONGEST_VALUE}": values.str.len_chars() > MAX_VALUE_CHARS})


def read_parts(table: Table, column: str) -> pl.Series:
    """Return parts of the split by name; missing ones are noted."""
    parts = _as_text(table, column)
    table.flag_missing(column)
    return _sound(table, column, parts, {f"should be one of {', '.join(PART_NAMES)}": parts.is_in(PART_NAMES).not_()})


def read_bag(table: Table, column: str, separator: str) -> pl.Series:
    """Return lists of categories; text is split at the separator."""
    raw, element = table.frame.get_column(column), pl.element()
    if raw.dtype == pl.String:
        lists = raw.str.split(separator).list.eval(element.str.strip_chars().filter(element.str.strip_chars() != ""))
    elif raw.dtype == pl.Null or (isinstance(raw.dtype, pl.List | pl.Array) and _is_text(raw.dtype.inner)):
        lists = raw.cast(pl.List(pl.String))
    else:
        table.flag_column(column, f"has type {raw.dtype}; expected lists of categories, or text to split")
        return pl.Series([None] * raw.len(), dtype=pl.List(pl.String))
    faults = {
        "holds a missing value": lists.list.eval(element.is_null()).list.any(),
        f"holds a value that exceeds {_LONGEST_VALUE}": lists.list.eval(
            element.str.len_chars() > MAX_VALUE_CHARS
        ).list.any(),
    }
    return _sound(table, column, lists, faults)


def read_numeric(table: Table, column: str) -> pl.Series:
    """Return finite numbers (Float64)."""
    numbers = _as_numbers(table, column)
    message = "is not a finite number; leave the cell empty where the value is missing"
    return _sound(table, column, numbers, {message: numbers.is_finite().not_()})


def _is_text(dtype: "PolarsDataType") -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null) or dtype.is_integer()


def _as_text(table: Table, column: str) -> pl.Series:
    """Return a column as text; nulls, with the problem noted, if it has another type."""
    raw = table.frame.get_column(column)
    if _is_text(raw.dtype):
        return raw.cast(pl.String)
    table.flag_column(column, f"has type {raw.dtype}; expected text or whole numbers")
    return pl.Series([None] * raw.len(), dtype=pl.String)


def _as_numbers(table: Table, column: str) -> pl.Series:
    """Return a column as numbers, null where it has none; the problems are noted."""
    raw = table.frame.get_column(column)
    if raw.dtype == pl.String and table.textual:
        numbers = raw.str.strip_chars().cast(pl.Float64, strict=False)
        table.flag(column, raw.is_not_null() & numbers.is_null(), "is not a number")
        return numbers
    if raw.dtype.is_numeric() or raw.dtype == pl.Null:
        return raw.cast(pl.Float64)
    table.flag_column(column, f"has type {raw.dtype}; expected numbers")
    return pl.Series([None] * raw.len(), dtype=pl.Float64)


def _parsed_times(raw: pl.Series) -> pl.Series:
    """Return text as Unix seconds; null if it is neither a number nor an ISO 8601 time."""
    seconds = raw.str.strip_chars().cast(pl.Float64, strict=False)
    return seconds.fill_null(_parsed(raw.set(seconds.is_not_null(), None), _iso_seconds))


def _parsed(texts: pl.Series, read: Callable[[str], float | None]) -> pl.Series:
    """Return what `read` makes of each distinct text."""
    distinct = texts.drop_nulls().unique()
    known = {text: read(text) for text in distinct.to_list()}
    return texts.replace_strict(known, default=None, return_dtype=pl.Float64)


def _is_all(numbers: pl.Series, low: float, high: float) -> bool:
    return numbers.null_count() == 0 and bool(numbers.is_between(low, high).all())


def _iso_seconds(text: str) -> float | None:
    return _seconds_of(lambda: datetime.fromisoformat(text.strip().removesuffix("UTC").strip()))


def _reader(form: str) -> Callable[[str], float | None]:
    """Return a reader of a format's times, which takes digits at their full width only."""

    def read(text: str) -> float | None:
        found = _seconds_of(lambda: datetime.strptime(text.strip(), form))
        whole = form not in _DIGITS or len(text.strip()) == len(datetime(2000, 1, 1).strftime(form))
        return found if whole and found is not None and 0 <= found < LATEST else None

    return read


def _seconds_of(read: Callable[[], datetime]) -> float | None:
    try:
        time = read()
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _sound(table: Table, column: str, values: pl.Series, faults: Mapping[str, pl.Series]) -> pl.Series:
    """Return a column's values, null where one of the faults (boolean, by message) is true, which is noted."""
    for message, bad in faults.items():
        table.flag(column, bad, message)
        values = values.to_frame().select(pl.when(bad.fill_null(False).not_()).then(pl.first())).to_series()
    return values
