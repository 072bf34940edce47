"""The log's files: Parquet by pyarrow, which nothing else of the log imports.

Knows how records become columns and back. Does not know where files are kept, nor when they are written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msd.contract.errors import MsdError
from msd.contract.log import REQUESTS, EventRecord, RequestRecord
from service.cores import let_others_run

Batch: TypeAlias = Any  # pyarrow.RecordBatch; pyarrow has no types
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
_READ_ROWS = 16
_ROWS = b"msd.rows"


class LogFileError(MsdError):
    """A file that is no file of the log, or cannot be read."""


def request_batch(records: Sequence[RequestRecord]) -> Batch:
    """Columns of some requests."""
    return _batch(_REQUEST_COLUMNS, records)


def event_batch(records: Sequence[EventRecord]) -> Batch:
    """Columns of some events."""
    return _batch(_EVENT_COLUMNS, records)


def encode_requests(records: Sequence[RequestRecord]) -> memoryview:
    """A file of requests."""
    return encode_batches([request_batch(records)])


def encode_events(records: Sequence[EventRecord]) -> memoryview:
    """A file of events."""
    return encode_batches([event_batch(records)])


def encode_batches(batches: Sequence[Batch]) -> memoryview:
    """A file of batches, one at least, all of one kind."""
    count = sum(batch.num_rows for batch in batches)
    table = pa.Table.from_batches(batches).replace_schema_metadata({_ROWS: str(count).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return memoryview(sink.getvalue())


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


def _batch(schema: Any, records: Sequence[RequestRecord] | Sequence[EventRecord]) -> Batch:  # noqa: ANN401
    columns = []
    for field in schema:
        columns.append(pa.array([getattr(one, field.name) for one in records], field.type))
        let_others_run()
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _rows(path: Path, schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not schema.equals(file.schema_arrow):
                raise LogFileError(f"{path}: is not a file of the log, or of another release: its columns differ")
            left = int((file.schema_arrow.metadata or {}).get(_ROWS, 0))
            for batch in file.iter_batches(_READ_ROWS):
                left -= len(batch)
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise LogFileError(f"{path}: not readable as Parquet: {error}") from error
    # What pages hold has checksums; how many there are has not.
    if left:
        raise LogFileError(f"{path}: damaged: it holds other than the records that it says")
