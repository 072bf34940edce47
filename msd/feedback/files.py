"""Services' log files as tables: requests, and events from there or elsewhere. Knows folders, columns and types. Does
not know outcomes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from msd.contract.errors import MsdError
from msd.contract.log import EVENTS, KINDS, REQUESTS
from msd.contract.request import ANONYMOUS, ANONYMOUS_PREFIX, MAX_POSITION
from msd.dataset.problem import POLARS_ERRORS

REQUEST_TYPES = {
    "request_id": pl.String(),
    "received_at": pl.Float64(),
    "at": pl.Float64(),
    "arm": pl.String(),
    "arm_share": pl.Float64(),
    "user_id": pl.String(),
    "item_ids": pl.List(pl.String()),
    "bids": pl.List(pl.Float64()),
    "scores": pl.List(pl.List(pl.Float32())),
    "segments": pl.List(pl.String()),
}
POLICY_COLUMNS = ("bundle_id", "heads", "pricing", "explore")
"""What the value of a policy needs besides."""
EVENT_TYPES = {
    "event_id": pl.String,
    "type": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "at": pl.Float64,
    "request_id": pl.String,
    "position": pl.Int32,
    "value": pl.Float64,
    "currency": pl.String,
}
_OPTIONAL = ("request_id", "position", "value", "currency")
JUDGE_COLUMNS = (*POLICY_COLUMNS, "request", "user_row", "item_rows", "history", "impressions")
"""What judging bundles needs besides."""
_CHOICE = {"policy": pl.String, "share": pl.Float64, "seed": pl.String, "explored": pl.Boolean, "first": pl.Int32}
_LATER: dict[str, pl.DataType] = {
    "correction": pl.List(pl.Float64),
    "pricing": pl.List(pl.String),
    "explore": pl.Struct({**_CHOICE, "propensity": pl.Float64}),
    "user_row": pl.Binary(),
    "item_rows": pl.Binary(),
    "history": pl.List(pl.String),
    "impressions": pl.List(pl.Float64),
    "heads": pl.List(pl.String),
    "segments": pl.List(pl.String),
    "slot": pl.Int32(),
}
"""Columns of requests; files of earlier releases, or of another source, lack some."""
_TYPES = {name: kind for name, kind in _LATER.items() if name != "explore"}
_TYPES |= {"bundle_id": pl.String(), "request": pl.Binary()}
_KINDS = ("impression", "click", "conversion")
MOST_WORTH = 1e12


class FeedbackError(MsdError):
    """A log or events are unusable; the message says what is wrong and what to do."""


def log_folders(logs: Sequence[Path]) -> list[Path]:
    """Return the folders and files of logs, in order: each `MSD_LOG_DIR` or file given, and those in a given folder of
    such folders. Raises FeedbackError for a path without any."""
    found: dict[Path, None] = {}
    for log in logs:
        if not log.exists():
            raise FeedbackError(f"{log}: no such file or folder")
        has_files = log.is_file() or any(next(log.glob(f"{kind}-*.parquet"), None) for kind in KINDS)
        own = [log] if has_files else sorted(one for one in log.iterdir() if one.is_dir())
        if not own:
            raise FeedbackError(f"{log}: holds no log, nor folders of logs, such as one for each pod")
        found |= dict.fromkeys(own)
    return list(found)


def recent_files(folders: Sequence[Path], since: float) -> tuple[list[Path], list[Path]]:
    """Return the files of requests and of events in folders of logs that were written `since` then (Unix s)."""
    every = ([file for one in folders for file in sorted(one.glob(f"{kind}-*.parquet"))] for kind in KINDS)
    requests, events = ([file for file in files if file.stat().st_mtime >= since] for files in every)
    return requests, events


def read_requests(logs: Sequence[Path], more: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """Yield each file's requests, oldest first within a log, with REQUEST_TYPES and `more`; without files that a
    service removes meanwhile to make room. Raises FeedbackError."""
    for file in filter(Path.exists, _files(logs, REQUESTS)):
        yield _read_requests(file, more)


def read_events(logs: Sequence[Path]) -> Iterator[pl.DataFrame]:
    """Yield the events of each file, Parquet or JSONL, of logs: event_id, type, user_id, item_id, at (Unix s),
    request_id and position (from 1), null if there is none; of conversions value and currency. Raises FeedbackError."""
    yield pl.DataFrame(schema=EVENT_TYPES)  # also if all files are removed meanwhile
    yield from map(_read_events, filter(Path.exists, _files(logs, EVENTS)))


def _files(logs: Sequence[Path], kind: str) -> list[Path]:
    folders = log_folders(logs)
    files = [file for one in folders for file in ([one] if one.is_file() else sorted(one.glob(f"{kind}-*.parquet")))]
    if not files:
        raise FeedbackError(f"{', '.join(map(str, logs))}: holds no file of {kind} (`{kind}-….parquet`)")
    return files


def _read_requests(file: Path, more: Sequence[str]) -> pl.DataFrame:
    try:
        columns = pl.read_parquet_schema(file)
        later = [
            pl.lit(None, kind).alias(name) for name, kind in _LATER.items() if name in more and name not in columns
        ]
        wanted = [name for name in (*REQUEST_TYPES, *more) if name not in _LATER or name in columns]
        # Each anonymous request has a user of its own, whose ID no other can have.
        own = pl.when(pl.col("user_id") == ANONYMOUS).then(pl.lit(ANONYMOUS_PREFIX) + pl.col("request_id"))
        user_ids = own.otherwise("user_id").alias("user_id")
        typed = [pl.col(name).cast(kind) for name, kind in {**REQUEST_TYPES, **_TYPES}.items() if name in wanted]
        frame = pl.read_parquet(file, columns=wanted).with_columns(typed).with_columns(user_ids, *later)
        is_right = frame.select(pl.all_horizontal(*_rules(frame.columns)).fill_null(False).all()).item()
    except POLARS_ERRORS as error:
        raise FeedbackError(f"{file}: is not a file of a request log: {error}") from None
    if not is_right:
        raise FeedbackError(
            f"{file}: a request lacks its ID, arm or time, or has not one score and bid a candidate, or a list of it"
            " lacks a value"
        )
    return frame


def _rules(columns: Sequence[str]) -> Iterator[pl.Expr]:
    """Yield what holds of each request."""
    yield from (pl.col(name).is_not_null() for name in ("request_id", "arm", "request") if name in columns)
    yield from (pl.col(name).is_finite() for name in ("received_at", "at"))
    listed = [name for name in ("item_ids", "heads", "pricing", "segments", "history") if name in columns]
    yield from (pl.col(name).list.eval(pl.element().is_null()).list.any().fill_null(False).not_() for name in listed)
    count, heads = pl.col("item_ids").list.len(), pl.col("scores").list.len()
    columns_of_heads = pl.col("scores").list.eval(pl.element().list.len())
    yield (columns_of_heads.list.min() == count) & (columns_of_heads.list.max() == count)
    lengths = {"bids": count, "pricing": count, "heads": heads, "impressions": 3 * pl.col("history").list.len()}
    held = ((pl.col(name), due) for name, due in lengths.items() if name in columns)
    yield from (column.is_null() | (column.list.len() == due) for column, due in held)


def _read_events(file: Path) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(file) if file.suffix == ".jsonl" else pl.read_parquet(file)
    except POLARS_ERRORS as error:
        raise FeedbackError(f"{file}: cannot be read as events: {error}") from None
    for name in EVENT_TYPES:
        if name not in frame.columns:
            if name not in _OPTIONAL:
                raise FeedbackError(f"{file}: has no column {name!r}; its columns are {', '.join(frame.columns)}")
            frame = frame.with_columns(pl.lit(None, EVENT_TYPES[name]).alias(name))
    _check_positions(file, frame["position"])
    try:
        frame = frame.select(pl.col(name).cast(kind) for name, kind in EVENT_TYPES.items())
        is_finite = frame["at"].is_finite().all()
    except POLARS_ERRORS as error:
        raise FeedbackError(f"{file}: a column is of another type than events have: {error}") from None
    frame = frame.with_columns(pl.col("user_id").fill_null(ANONYMOUS))
    for name in EVENT_TYPES:
        if name not in _OPTIONAL and frame[name].null_count():
            raise FeedbackError(f"{file}: {frame[name].null_count()} events have no {name}")
    if not is_finite:
        raise FeedbackError(f"{file}: a time is not a finite number")
    _check_values(file, frame)
    others = frame.filter(pl.col("type").is_in(_KINDS).not_())
    if others.height:
        raise FeedbackError(f"{file}: an event is of type {others['type'][0]!r}; there are: {', '.join(_KINDS)}")
    return frame


def _check_positions(file: Path, given: pl.Series) -> None:
    numbers = None if given.dtype == pl.Boolean else given.cast(pl.Float64, strict=False)
    is_place = None if numbers is None else (numbers % 1 == 0) & numbers.is_between(1, MAX_POSITION)
    wrong = given.is_not_null() if is_place is None else given.is_not_null() & ~is_place.fill_null(False)
    if wrong.any():
        raise FeedbackError(
            f"{file}: an event has the position {given.filter(wrong)[0]}; it should be a whole number from 1, the first"
            f" place of the page, to {MAX_POSITION}, or missing"
        )


def _check_values(file: Path, frame: pl.DataFrame) -> None:
    wrong = frame.filter(pl.col("value").is_between(0, MOST_WORTH).not_())
    if wrong.height:
        raise FeedbackError(
            f"{file}: an event has the value {wrong['value'][0]}; it should be from 0 to {MOST_WORTH:g}"
        )
