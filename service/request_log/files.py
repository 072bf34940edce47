"""The log's Parquet files (pyarrow), in a folder with one writer at a time, bounded in bytes and age.

Converts records to columns and back. Does not know when files are written.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeAlias, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.contract.exploration import Choice, Played
from msd.contract.files import write_bytes_atomic
from msd.contract.log import KINDS, REQUESTS, EventRecord, RequestRecord
from msd.contract.pricing import Pricing
from service.machine import let_others_run

Batch: TypeAlias = Any  # pyarrow.RecordBatch; pyarrow has no types
Record: TypeAlias = RequestRecord | EventRecord
_TYPES: Mapping[object, Any] = {
    str: pa.string(),
    float: pa.float64(),
    int: pa.int32(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    Played: pa.string(),
    list[str]: pa.list_(pa.string()),
    list[str | None]: pa.list_(pa.string()),
    list[Pricing]: pa.list_(pa.string()),
    list[float]: pa.list_(pa.float64()),
    list[float | None]: pa.list_(pa.float64()),
    list[int]: pa.list_(pa.int32()),
    list[NDArray[np.float32]]: pa.list_(pa.list_(pa.float32())),
}
_READ_ROWS = 16
_ROWS = b"msd.rows"
_LOCK = ".lock"
_EPOCH = datetime.fromtimestamp(0, UTC)


def _columns(record: type) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return the columns of a record's fields: their types, and 32 bits for milliseconds."""
    columns = {}
    for name, hint in get_type_hints(record).items():
        (kind,) = {*get_args(hint)} - {NoneType} if isinstance(hint, UnionType) else (hint,)
        if kind == dict[str, Any]:
            columns[name] = pa.struct(_columns(Choice))
        else:
            columns[name] = pa.float32() if name.endswith("_ms") else _TYPES[kind]
    return pa.schema(columns)


_REQUEST_COLUMNS, _EVENT_COLUMNS = _columns(RequestRecord), _columns(EventRecord)


class LogFileError(MsdError):
    """A file is not one of the log's, or cannot be read."""


def to_batch(records: Sequence[Record]) -> Batch:
    """Return columns of at least one record, all of one kind."""
    schema = _EVENT_COLUMNS if isinstance(records[0], EventRecord) else _REQUEST_COLUMNS
    columns = []
    for field in schema:
        columns.append(pa.array([getattr(record, field.name) for record in records], field.type))
        let_others_run()
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def encode(records: Sequence[Record]) -> memoryview:
    """Return a file of at least one record, all of one kind."""
    return encode_batches([to_batch(records)])


def encode_batches(batches: Sequence[Batch]) -> memoryview:
    """Return a file of at least one batch, all of one kind."""
    count = sum(batch.num_rows for batch in batches)
    table = pa.Table.from_batches(batches).replace_schema_metadata({_ROWS: str(count).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return memoryview(sink.getvalue())


def return_free_memory() -> None:
    """Return the memory of batches that are gone: the allocator would keep four times as much as a file needs."""
    pa.default_memory_pool().release_unused()


def log_files(path: Path, kind: str = REQUESTS) -> list[Path]:
    """Return the files of one kind in a folder, oldest first; or the one file `path`. Raises LogFileError if there is
    none."""
    files = sorted(path.glob(f"{kind}-*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise LogFileError(f"{path}: {'holds no' if path.is_dir() else 'no such folder or'} file of {kind}")
    return files


def read_requests(path: Path) -> Iterator[RequestRecord]:
    """Return the records of one file, in writing order. Raises LogFileError."""
    for row in _rows(path, _REQUEST_COLUMNS):
        row["scores"] = [np.array(column, np.float32) for column in row["scores"]]
        yield RequestRecord(**row)


def read_events(path: Path) -> Iterator[EventRecord]:
    """Return the records of a file of events. Raises LogFileError."""
    for row in _rows(path, _EVENT_COLUMNS):
        yield EventRecord(**row)


def _rows(path: Path, schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - pyarrow has no types
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            due = {field.name: field.type for field in schema}
            found = {field.name: field.type for field in file.schema_arrow}
            if found != due:
                raise LogFileError(f"{path}: not a request log file, or of another release: its columns differ")
            left = int((file.schema_arrow.metadata or {}).get(_ROWS, 0))
            for batch in file.iter_batches(_READ_ROWS, columns=list(found)):
                left -= len(batch)
                yield from batch.to_pylist()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise LogFileError(f"{path}: not readable as Parquet: {error}") from error
    # Pages have checksums; their number has not.
    if left:
        raise LogFileError(f"{path}: damaged: its contents differ from its record count")


class LogFolderError(MsdError):
    """The folder cannot be used."""


class LogFolder:
    """The log's folder, locked until the process ends. Files appear whole or not at all."""

    def __init__(self, path: Path, max_bytes: int, max_age_s: float) -> None:
        """Make and lock the folder, and remove half-written files. Raises LogFolderError if it cannot be made, or has
        another writer."""
        self._path = path
        self.max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._last_us = 0
        try:
            path.mkdir(0o750, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LogFolderError(f"{path}: cannot hold the request log: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise LogFolderError(f"{path}: another service writes its log here; give each its own folder") from None
        for kind in KINDS:
            for half in path.glob(f".{kind}-*.parquet.*"):
                half.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._lock)

    def add(self, kind: str, data: bytes | memoryview) -> None:
        """Remove the oldest files as needed, and write one. Raises OSError, or LogFolderError if it exceeds the
        folder's limit."""
        if len(data) > self.max_bytes:
            raise LogFolderError(f"{len(data)} bytes at once exceed the log's limit of {self.max_bytes} bytes")
        self.prune(len(data))
        # A sortable, unique timestamp, also after the clock was set back. Seconds as a float would round some together.
        self._last_us = max(time.time_ns() // 1_000, self._last_us + 1)
        moment = _EPOCH + timedelta(microseconds=self._last_us)
        write_bytes_atomic(self._path / f"{kind}-{moment:%Y%m%dT%H%M%S.%f}Z.parquet", data)

    def prune(self, room: int = 0) -> None:
        """Remove files that are too old, and the oldest until there is `room`."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        oldest = time.time() - self._max_age_s
        for changed_at, size, file in files:
            if changed_at >= oldest and total + room <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size

    def size(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for kind in KINDS:
            for file in self._path.glob(f"{kind}-*.parquet"):
                with suppress(FileNotFoundError):
                    status = os.stat(file)
                    found.append((status.st_mtime, status.st_size, file))
        return sorted(found)
