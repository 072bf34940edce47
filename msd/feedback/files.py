"""A service's log files as tables: requests, and events from there or elsewhere. Knows columns and types. Does not know
outcomes.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from msd.contract.errors import MsdError
from msd.contract.log import EVENTS, REQUESTS
from msd.contract.request import ANONYMOUS

REQUEST_COLUMNS = ("request_id", "received_at", "at", "arm", "arm_share", "user_id", "item_ids", "bids", "scores")
EVENT_TYPES = {
    "event_id": pl.String,
    "type": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "at": pl.Float64,
    "request_id": pl.String,
}
_OPTIONAL = ("request_id",)
ANONYMOUS_PREFIX = "\0"
"""Followed by the request's ID, it stands for an anonymous user's."""
_CHOICE = {"policy": pl.String, "share": pl.Float64, "seed": pl.String, "explored": pl.Boolean, "first": pl.Int32}
_LATER: dict[str, pl.DataType] = {
    "correction": pl.List(pl.Float64),
    "pricing": pl.List(pl.String),
    "explore": pl.Struct({**_CHOICE, "propensity": pl.Float64}),
}
"""Columns of requests; files of earlier releases lack them."""
_KINDS = ("impression", "click", "conversion")


class FeedbackError(MsdError):
    """A log or events are unusable; the message says what is wrong and what to do."""


def request_files(path: Path) -> list[Path]:
    """Return the log's files of requests, oldest first. Raises FeedbackError if there are none."""
    return _files(path, REQUESTS)


def read_requests(file: Path, more: Sequence[str] = ()) -> pl.DataFrame:
    """Read one file's requests, with REQUEST_COLUMNS and `more`. Raises FeedbackError."""
    try:
        columns = pl.read_parquet_schema(file)
        later = [
            pl.lit(None, kind).alias(name) for name, kind in _LATER.items() if name in more and name not in columns
        ]
        wanted = [name for name in (*REQUEST_COLUMNS, *more) if name not in _LATER or name in columns]
        # Each anonymous request has a user of its own, whose ID no other can have.
        own = pl.when(pl.col("user_id") == ANONYMOUS).then(pl.lit(ANONYMOUS_PREFIX) + pl.col("request_id"))
        user_ids = own.otherwise("user_id").alias("user_id")
        return pl.read_parquet(file, columns=wanted).with_columns(user_ids, *later)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeedbackError(f"{file}: is not a file of a request log: {error}") from None


def read_events(path: Path) -> pl.DataFrame:
    """Read all events of a log's folder, or of one Parquet or JSONL file: event_id, type, user_id, item_id, at (Unix s)
    and request_id, null if there is none. Raises FeedbackError."""
    return pl.concat([_read_events(file) for file in _files(path, EVENTS)])


def _files(path: Path, kind: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob(f"{kind}-*.parquet"))
    if not files:
        what = f"holds no file of {kind} (`{kind}-….parquet`)" if path.is_dir() else "no such file or folder"
        raise FeedbackError(f"{path}: {what}")
    return files


def _read_events(file: Path) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(file) if file.suffix == ".jsonl" else pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FeedbackError(f"{file}: cannot be read as events: {error}") from None
    for name in EVENT_TYPES:
        if name not in frame.columns:
            if name not in _OPTIONAL:
                raise FeedbackError(f"{file}: has no column {name!r}; its columns are {', '.join(frame.columns)}")
            frame = frame.with_columns(pl.lit(None, pl.String).alias(name))
    try:
        frame = frame.select(pl.col(name).cast(kind) for name, kind in EVENT_TYPES.items())
    except pl.exceptions.PolarsError as error:
        raise FeedbackError(f"{file}: a column is of another type than events have: {error}") from None
    for name in EVENT_TYPES:
        if name not in _OPTIONAL and frame[name].null_count():
            raise FeedbackError(f"{file}: {frame[name].null_count()} events have no {name}")
    if not frame["at"].is_finite().all():
        raise FeedbackError(f"{file}: a time is not a finite number")
    others = frame.filter(pl.col("type").is_in(_KINDS).not_())
    if others.height:
        raise FeedbackError(f"{file}: an event is of type {others['type'][0]!r}; there are: {', '.join(_KINDS)}")
    return frame
