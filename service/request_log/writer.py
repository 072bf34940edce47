"""Collects records of requests and events, and writes files of them when they are many or have waited long.

A disk that is full or gone loses records, which are counted, and nothing else. All of it runs in the log's thread.
"""

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from msd.contract.errors import MsdError
from msd.contract.log import EVENTS, REQUESTS, EventRecord, RequestRecord, is_sampled
from service.cores import let_others_run
from service.request_log.drift import Drift
from service.request_log.folder import LogFolder
from service.request_log.observed import Observed
from service.request_log.parquet import Batch, encode_batches, event_batch, request_batch
from service.request_log.served import Events, record_of, records_of
from service.scoring.answer import Served
from service.telemetry.metrics import Logged, Metrics

_FULL_BYTES, _FEWEST_FILES = 16 * 2**20, 4
# Records become columns in batches of about so many ids: while they do, nobody else runs Python.
_BATCH_IDS = 1_600
_SAY_AGAIN_S = 30.0
Record = TypeVar("Record", RequestRecord, EventRecord)


class LogWriter:
    """Records wait in memory until their file is written, for `flush_s` at most."""

    def __init__(self, folder: LogFolder, metrics: Metrics, share: float, flush_s: float) -> None:
        """`share` of the requests are logged, and the events of those, and events that name no request."""
        self._folder = folder
        self._metrics = metrics
        self._share = share
        # A file must not be more than the folder may hold, and should not push out all others.
        full = min(_FULL_BYTES, folder.max_bytes // _FEWEST_FILES)
        self._requests = _Waiting(REQUESTS, request_batch, full, flush_s)
        self._events = _Waiting(EVENTS, event_batch, full, flush_s)
        self._drift, self._observed = Drift(metrics), Observed(metrics)
        self._say_again_at = 0.0
        self._log = structlog.get_logger("msd.request_log")
        self._metrics.log_bytes.set(folder.size())

    def take(self, told: Served | Events) -> None:
        """Make records of what was told. Never raises: what cannot be logged is counted as lost."""
        # Whatever goes wrong with one, others are still to be logged.
        if isinstance(told, Served):
            try:
                self._take_request(told)
            except Exception as error:
                self._lost(REQUESTS, 1, error)
        else:
            try:
                self._take_events(told)
            except Exception as error:
                self._lost(EVENTS, told.total, error)
        self.flush(is_due=True)

    def flush(self, *, is_due: bool = False) -> None:
        """Write what waits; with `is_due` only where it is much or has waited long."""
        if not self._requests.is_empty and (self._requests.is_due() or not is_due):
            self._write(self._requests)
        if not self._events.is_empty and (self._events.is_due() or not is_due):
            self._write(self._events)

    def tick(self) -> None:
        """Write what has waited long, remove old files, and set the gauges. Never raises."""
        self.flush(is_due=True)
        try:
            self._observed.tell()
            self._folder.prune()
            self._metrics.log_bytes.set(self._folder.size())
        except Exception as error:
            self._lost(REQUESTS, 0, error)

    def close(self) -> None:
        """Write what waits, and leave the folder to the next service."""
        self.flush()
        self._folder.close()

    def _take_request(self, served: Served) -> None:
        record = record_of(served)
        self._observed.record(record)
        let_others_run()
        if served.is_champion:
            scored = served.scored
            self._drift.add(served.model.bundle.manifest, served.request, scored.basis, scored.scores)
            let_others_run()
        self._requests.add(record, served.size, 1 + len(record.item_ids))
        if self._requests.ids >= _BATCH_IDS:
            self._convert(self._requests)

    def _take_events(self, events: Events) -> None:
        told = list(records_of(events))
        wanted = [one for one in told if one.request_id is None or is_sampled(one.request_id, self._share)]
        self._metrics.log_events["unsampled"].inc(len(told) - len(wanted))
        for event in wanted:
            self._observed.event(event)
            self._events.add(event, events.size // len(told), 1)
        if self._events.ids >= _BATCH_IDS:
            self._convert(self._events)

    def _convert(self, waiting: "_Waiting[Record]") -> None:
        count = len(waiting.records)
        try:
            waiting.convert()
        except Exception as error:  # a value that Parquet cannot hold, say
            self._lost(waiting.kind, count, error)

    def _write(self, waiting: "_Waiting[Record]") -> None:
        self._convert(waiting)
        count, batches = waiting.taken()
        try:
            if batches:
                self._folder.add(waiting.kind, encode_batches(batches))
                self._metrics.log_bytes.set(self._folder.size())
        except Exception as error:  # the disk, first of all
            self._lost(waiting.kind, count, error)
        else:
            self._count(waiting.kind, "written", count)

    def _count(self, kind: str, result: Logged, count: int) -> None:
        results = self._metrics.log_events if kind == EVENTS else self._metrics.log_records
        results[result].inc(count)

    def _lost(self, kind: str, count: int, error: Exception) -> None:
        self._count(kind, "lost", count)
        if time.monotonic() >= self._say_again_at:
            self._say_again_at = time.monotonic() + _SAY_AGAIN_S
            is_ours = isinstance(error, MsdError | OSError)
            self._log.error("request_log_failed", reason=str(error), exc_info=None if is_ours else error)


class _Waiting(Generic[Record]):
    """Records of one kind that are not in a file yet: the latest as they are, others in batches of columns."""

    def __init__(self, kind: str, to_batch: Callable[[Sequence[Record]], Batch], full: int, flush_s: float) -> None:
        self.kind = kind
        self.records: list[Record] = []
        self.ids = 0
        self._to_batch: Callable[[Sequence[Record]], Batch] = to_batch
        self._batches: list[Batch] = []
        self._full, self._flush_s = full, flush_s
        self._bytes = 0
        self._since = 0.0

    def add(self, record: Record, size: int, ids: int) -> None:
        """One more, of about `size` bytes and with so many IDs."""
        if self.is_empty:
            self._since = time.monotonic()
        self.records.append(record)
        self.ids += ids
        self._bytes += size

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self.records or self._batches)

    def is_due(self) -> bool:
        """Whether they are many, or have waited long."""
        return self._bytes >= self._full or time.monotonic() - self._since >= self._flush_s

    def convert(self) -> None:
        """Make the latest records columns. If that fails, they are lost."""
        records, self.records, self.ids = self.records, [], 0
        if records:
            self._batches.append(self._to_batch(records))

    def taken(self) -> tuple[int, list[Batch]]:
        """The batches and the number of their records; none wait any more."""
        batches, self._batches, self._bytes = self._batches, [], 0
        return sum(batch.num_rows for batch in batches), batches
