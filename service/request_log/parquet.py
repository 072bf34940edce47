"""The log's files: Parquet by pyarrow, which nothing else of the log imports.

Knows how records become columns and back. Does not know where files are kept, nor when they are written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msd.contract.errors import MsdError
from msd.contract.log import REQUESTS, EventRecord, RequestRecord

_STRINGS, _FLOATS = pa.list_(pa.string()), pa.list_(pa.float32())
_REQUEST_COLUMNS = pa.schema(
    {
        "request_id": pa.string(),
        "received_at": pa.float64(),
        "at": pa.float64(),
        "arm": pa.string(),
        "arm_share": pa.float64(),
        "model_version": pa.string(),
        "bundle_id": pa.string(),
        "manifest_sha256": pa.string(),
        "engine": pa.string(),
        "runtime_version": pa.string(),
        "instructions": pa.string(),
        "threads": pa.int32(),
        "ran": pa.int32(),
        "is_partial": pa.bool_(),
        "together": pa.int32(),
        "user_id": pa.string(),
        "request": pa.binary(),
        "history": _STRINGS,
        "item_ids": _STRINGS,
        "bids": pa.list_(pa.float64()),
        "user_row": pa.binary(),
        "user_found": pa.bool_(),
        "user_stale": pa.bool_(),
        "item_rows": pa.binary(),
        "items_found": pa.binary(),
        "items_stale": pa.binary(),
        "heads": _STRINGS,
        "scores": pa.list_(_FLOATS),
        "degraded_user": pa.string(),
        "rungs": _STRINGS,
        "served": pa.list_(pa.int32()),
        "parse_ms": pa.float32(),
        "rows_ms": pa.float32(),
        "queue_ms": pa.float32(),
        "run_ms": pa.float32(),
        "total_ms": pa.float32(),
    }.items()
)
_EVENT_COLUMNS = pa.schema(
    {
        "event_id": pa.string(),
        "type": pa.string(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "at": pa.float64(),
        "request_id": pa.string(),
        "received_at": pa.float64(),
    }.items()
)
_BATCH = 16
_ROWS = b"msd.rows"


class LogFileError(MsdError):
    """A file that is no file of the log, or cannot be read."""


def encode_requests(records: Sequence[RequestRecord]) -> bytes:
    """A file of requests."""
    return _encoded(_REQUEST_COLUMNS, records)


def encode_events(records: Sequence[EventRecord]) -> bytes:
    """A file of events."""
    return _encoded(_EVENT_COLUMNS, records)


def log_files(path: Path, kind: str = REQUESTS) -> list[Path]:
    """The files of one kind in a folder, oldest first; or the one that `path` is. Raises LogFileError if none."""
    files = sorted(path.glob(f"{kind}-*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise LogFileError(f"{path}: {'holds no' if path.is_dir() else 'no such folder or'} file of {kind}")
    return files


def read_requests(path: Path) -> Iterator[RequestRecord]:
    """The records of one file, in the order that they were written. Raises LogFileError."""
    for row in _rows(path, _REQUEST_COLUMNS):
        row["scores"] = [np.array(column, np.float32) for column in row["scores"]]
        yield RequestRecord(**row)


def read_events(path: Path) -> Iterator[EventRecord]:
    """The same of a file of events."""
    for row in _rows(path, _EVENT_COLUMNS):
        yield EventRecord(**row)


def _encoded(schema: Any, records: Sequence[RequestRecord] | Sequence[EventRecord]) -> bytes:  # noqa: ANN401
    columns = [pa.array([getattr(one, field.name) for one in records], field.type) for field in schema]
    sink = pa.BufferOutputStream()
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata({_ROWS: str(len(records)).encode()}))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _rows(path: Path, schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not schema.equals(file.schema_arrow):
                raise LogFileError(f"{path}: is not a file of the log, or of another release: its columns differ")
            left = int((file.schema_arrow.metadata or {}).get(_ROWS, 0))
            for batch in file.iter_batches(_BATCH):
                left -= len(batch)
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise LogFileError(f"{path}: not readable as Parquet: {error}") from error
    # What pages hold has checksums; how many there are has not.
    if left:
        raise LogFileError(f"{path}: damaged: it holds other than the records that it says")
