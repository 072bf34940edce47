"""Collects what workers tell of requests and events, and puts it into files when it is much, or when it is time.

A disk that is full or gone loses records, which are counted, and nothing else.
"""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from msd.contract.errors import MsdError
from msd.contract.log import EVENTS, REQUESTS, EventRecord, RequestRecord, is_sampled
from service.metrics import Metrics
from service.request_log.drift import Drift
from service.request_log.folder import LogFolder
from service.request_log.message import MessageError, RequestTold, read_message
from service.request_log.observed import Observed
from service.request_log.parquet import encode_events, encode_requests

_FULL_BYTES, _FEWEST_FILES = 16 * 2**20, 4
_SAY_AGAIN_S = 30.0
Record = TypeVar("Record", RequestRecord, EventRecord)


class LogWriter:
    """The writer. Records wait in memory until their file is written, for `flush_s` at most."""

    def __init__(self, folder: LogFolder, metrics: Metrics, share: float, flush_s: float) -> None:
        """`share` of the requests are logged, and the events of those, and events that name no request."""
        self._folder = folder
        self._metrics = metrics
        self._share = share
        # A file must not be more than the folder may hold, and should not push out all others.
        full = min(_FULL_BYTES, folder.max_bytes // _FEWEST_FILES)
        self._requests = _Waiting(REQUESTS, encode_requests, full, flush_s)
        self._events = _Waiting(EVENTS, encode_events, full, flush_s)
        self._drift, self._observed = Drift(metrics), Observed(metrics)
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.request_log")
        self._metrics.log_bytes.set(folder.size())

    def take(self, message: bytes) -> None:
        """Takes what a worker told."""
        try:
            told = read_message(message)
        except MessageError as error:
            self._metrics.log_records["lost"].inc()
            self._say(error)
            return
        if isinstance(told, RequestTold):
            self._requests.add(told.record, len(message))
            self._observed.record(told.record)
            if told.champion_folder is not None:
                self._drift.add(told.record, told.champion_folder)
        else:
            wanted = [one for one in told if one.request_id is None or is_sampled(one.request_id, self._share)]
            self._metrics.log_events["unsampled"].inc(len(told) - len(wanted))
            for event in wanted:
                self._events.add(event, len(message) // len(told))
                self._observed.event(event)
        self.flush(is_due=True)

    def flush(self, *, is_due: bool = False) -> None:
        """Writes what waits; with `is_due` only where it is much or has waited long."""
        if self._requests.records and (self._requests.is_due() or not is_due):
            self._write(self._requests)
        if self._events.records and (self._events.is_due() or not is_due):
            self._write(self._events)

    def tick(self) -> None:
        """To be called now and then: writes what has waited long, and lets old files go."""
        self.flush(is_due=True)
        self._observed.tell()
        try:
            self._folder.prune()
            self._metrics.log_bytes.set(self._folder.size())
        except OSError as error:
            self._say(error)

    def _write(self, waiting: "_Waiting[Record]") -> None:
        results = self._metrics.log_events if waiting.kind == EVENTS else self._metrics.log_records
        try:
            self._folder.add(waiting.kind, waiting.encoded())
            self._metrics.log_bytes.set(self._folder.size())
        except Exception as error:
            # Whatever it is - the disk, a value that Parquet cannot hold - others are still to be logged.
            results["lost"].inc(len(waiting.records))
            self._say(error)
        else:
            results["written"].inc(len(waiting.records))
        waiting.clear()

    def _say(self, error: Exception) -> None:
        if time.monotonic() >= self._say_again_at:
            self._say_again_at = time.monotonic() + _SAY_AGAIN_S
            is_ours = isinstance(error, MsdError | OSError)
            self._log.error("request_log_failed", reason=str(error), exc_info=None if is_ours else error)


class _Waiting(Generic[Record]):
    """Records of one kind that are not in a file yet."""

    def __init__(self, kind: str, encode: Callable[[list[Record]], bytes], full: int, flush_s: float) -> None:
        self.kind = kind
        self.records: list[Record] = []
        self._encode: Callable[[list[Record]], bytes] = encode
        self._full, self._flush_s = full, flush_s
        self._bytes = 0
        self._since = 0.0

    def add(self, record: Record, size: int) -> None:
        """One more, of about so many bytes."""
        if not self.records:
            self._since = time.monotonic()
        self.records.append(record)
        self._bytes += size

    def is_due(self) -> bool:
        """Whether they are many, or have waited long."""
        return self._bytes >= self._full or time.monotonic() - self._since >= self._flush_s

    def encoded(self) -> bytes:
        """Their file."""
        return self._encode(self.records)

    def clear(self) -> None:
        """None wait any more."""
        self.records = []
        self._bytes = 0
