"""The request log: the event loop hands over sampled requests and events, one thread makes and writes their records.

Nothing waits for it. What its queue has no room for is dropped, what cannot be written - as when the disk is full or
gone - is lost; both are counted. At the end another thread, of normal priority, writes what waits.
"""

import asyncio
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal, NamedTuple

import orjson
import structlog

from msd.contract.errors import MsdError
from msd.contract.log import EVENTS, KINDS, REQUESTS, EventRecord, RequestRecord
from msd.contract.pricing import ecpm_of, served_places
from msd.contract.request import ANONYMOUS, parse_request
from msd.contract.segments import dividing, segments_of
from service import limits
from service.machine import give_way, let_others_run
from service.request_log.quality import Drift, Observed
from service.scoring.answer import Served
from service.scoring.deployment import Deployment
from service.scoring.model import Model
from service.settings import Settings
from service.telemetry.metrics import Logged, Metrics

if TYPE_CHECKING:  # pyarrow, which it needs, is an extra
    from service.request_log.files import Batch, LogFolder

_MAX_BYTES, _MAX_COUNT = 16 * 2**20, 4_096
_TICK_S = 1.0
# Python's lock is shared with serving threads: this thread works a third of the time at most.
_PAUSES_PER_WORK = 2.0
# Of the time to drain, the share that is kept for the last files.
_LAST_SHARE = 0.2
_LOOK_S = 0.05
_FULL_BYTES, _FEWEST_FILES = 16 * 2**20, 4
# Records are converted in batches of about this many IDs: meanwhile no other thread runs Python.
_BATCH_IDS = 1_600
_LOG_AGAIN_S = 30.0
_Result = Logged | Literal["unsampled"]
_STAGES = ("parse_ms", "rows_ms", "queue_ms", "run_ms", "total_ms")


class LoggedEvents(NamedTuple):
    """The body of a request to `POST /v1/events` whose `total` events were accepted."""

    body: bytes
    total: int
    received_at: float

    @property
    def size(self) -> int:
        return len(self.body)


Entry = Served | LoggedEvents
"""What the log is handed."""


class RequestLog:
    """All methods are for the event loop. `share` of the requests are logged.

    What is handed over is kept by reference, so arrays of a scored request may not change after its reply.
    """

    def __init__(self, writer: "LogWriter", share: float, tick_s: float, metrics: Metrics) -> None:
        self._writer = writer
        self._share = share
        self._tick_s = tick_s
        self._metrics = metrics
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        # Totals since the start, each written by one thread, so that no lock is needed: handed over by the loop, taken
        # by the thread. The difference is waiting.
        self._handed_bytes = self._handed_count = 0
        self._taken_bytes = self._taken_count = 0
        self._handed = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            metrics.log_waiting[kind].set_function(partial(self._waiting, kind))
        self._closing = threading.Event()
        self._log = structlog.get_logger("msd.request_log")
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def wants(self, deployment: Deployment, request_id: str) -> bool:
        return is_sampled(request_id, self._share)

    def follow(self, deployment: Deployment, served: Served | None) -> None:
        """Log a request whose reply has been sent, if it is in the sample."""
        if served is not None and is_sampled(served.request_id, self._share):
            self.request(served)

    def request(self, served: Served) -> None:
        self._metrics.log_records["handed" if self._hand_over(served, REQUESTS, 1) else "dropped"].inc()

    def events(self, body: bytes, count: int) -> bool:
        """Log the `count` events of an accepted body of `POST /v1/events`; False if there was no room."""
        is_handed = self._hand_over(LoggedEvents(body, count, time.time()), EVENTS, count)
        self._metrics.log_events["handed" if is_handed else "dropped"].inc(count)
        return is_handed

    async def close(self, seconds: float, beat: Callable[[], None] = lambda: None) -> None:
        """Write what was handed over, within `seconds`, and count the rest as lost. Hand over nothing after this.
        `beat` is called meanwhile."""
        began, before = time.monotonic(), dict(self._writer.lost)
        until = began + seconds
        self._log.info(
            "request_log_draining", **{kind: self._waiting(kind) for kind in KINDS}, seconds=round(seconds, 1)
        )
        self._closing.set()
        self._queue.put(None)
        last = threading.Thread(
            target=self._drain, args=(until - _LAST_SHARE * seconds,), name="log-drain", daemon=True
        )
        last.start()
        while last.is_alive() and time.monotonic() < until:
            beat()
            await asyncio.sleep(_LOOK_S)
        self._writer.abandon(self._handed)
        lost = {kind: self._writer.lost[kind] - before[kind] for kind in KINDS}
        took = round(time.monotonic() - began, 1)
        if any(lost.values()):
            self._log.error("request_log_unfinished", **lost, seconds=took)
        else:
            self._log.info("request_log_drained", seconds=took)

    def _waiting(self, kind: str) -> int:
        """Return the number of handed records that are neither written nor lost."""
        return max(0, self._handed[kind] - self._writer.settled[kind])

    def _hand_over(self, entry: Entry, kind: str, count: int) -> bool:
        size = entry.size
        waiting_bytes = self._handed_bytes - self._taken_bytes
        if waiting_bytes + size > _MAX_BYTES or self._handed_count - self._taken_count >= _MAX_COUNT:
            return False
        self._handed_bytes += size
        self._handed_count += 1
        self._handed[kind] += count
        self._queue.put(entry)
        return True

    def _work(self) -> None:
        """Write until the end begins."""
        give_way()
        tick_at = time.monotonic() + self._tick_s
        while not self._closing.is_set():
            began = time.thread_time()
            with suppress(Empty):
                self._take(self._queue.get(timeout=max(0.0, tick_at - time.monotonic())))
            try:
                if time.monotonic() >= tick_at:
                    tick_at = time.monotonic() + self._tick_s
                    self._writer.tick()
            except Exception as error:
                self._writer.lose(None, error)
            self._closing.wait(_PAUSES_PER_WORK * (time.thread_time() - began))

    def _drain(self, until: float) -> None:
        """Write what is left, in a thread of its own: no thread may raise its priority again. Take no record after
        `until`."""
        self._thread.join()
        with suppress(Empty):
            while time.monotonic() < until:
                self._take(self._queue.get_nowait())
        self._writer.close()

    def _take(self, entry: Entry | None) -> None:
        if entry is None:
            return
        # If one record fails, others are still logged.
        try:
            self._writer.take(entry)
        except Exception as error:
            self._writer.lose(entry, error)
        # Only now, so that a hanging writer fills the queue.
        self._taken_bytes += entry.size
        self._taken_count += 1


class LogWriter:
    """Records of requests and events, kept in memory until their file is due, for `flush_s` at most. Runs in the log's
    threads, one at a time."""

    def __init__(
        self, folder: "LogFolder", metrics: Metrics, share: float, flush_s: float, segments: Sequence[str] = ()
    ) -> None:
        """`share` of the requests are logged, and the events of those, and events that name no request. `segments`:
        context features that divide requests."""
        self._folder = folder
        self._metrics = metrics
        self._share = share
        # A file must fit into the folder, and should not displace all others.
        full = min(_FULL_BYTES, folder.max_bytes // _FEWEST_FILES)
        self._requests = _Waiting(REQUESTS, full, flush_s)
        self._events = _Waiting(EVENTS, full, flush_s)
        self._segments = segments
        self.settled, self.lost = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
        """Records by kind: written, lost or not sampled; and lost."""
        self._is_abandoned = False
        self._bundles = set[str]()
        self._drift, self._observed = Drift(metrics), Observed(metrics)
        self._log_again_at = 0.0
        self._log = structlog.get_logger("msd.request_log")
        self._metrics.log_bytes.set(folder.size())

    def take(self, entry: Entry) -> None:
        """Make records of an entry. Raises whatever prevents this."""
        if isinstance(entry, Served):
            self._take_request(entry)
        else:
            self._take_events(entry)
        self._flush()

    def tick(self) -> None:
        """Write records that are due, remove old files, and set the gauges."""
        self._flush()
        self._observed.tell()
        self._folder.prune()
        self._metrics.log_bytes.set(self._folder.size())

    def lose(self, entry: Entry | None, error: Exception) -> None:
        kind, count = (EVENTS, entry.total) if isinstance(entry, LoggedEvents) else (REQUESTS, int(entry is not None))
        self._lost(kind, count, error)

    def close(self) -> None:
        """Write all waiting records, and unlock the folder."""
        self._flush(is_last=True)
        self._folder.close()

    def abandon(self, handed: Mapping[str, int]) -> None:
        """Begin no other file, and count as lost what is not written of the records `handed` over, by kind. Called by
        another thread, after which this one counts nothing."""
        self._is_abandoned = True
        for kind, total in handed.items():
            self._settle(kind, "lost", max(0, total - self.settled[kind]))

    def _take_request(self, served: Served) -> None:
        self._check_segments(served.model)
        record = record_of(served, self._segments)
        self._observed.record(record, served.model.bundle.manifest.formula)
        let_others_run()
        if served.is_champion:
            self._drift.add(served.model.bundle.manifest, served.inputs, served.model_scores)
            let_others_run()
        self._requests.add(record, served.size, 1 + len(record.item_ids))
        if self._requests.ids >= _BATCH_IDS:
            self._convert(self._requests)

    def _check_segments(self, model: Model) -> None:
        """Say once for each bundle which of the features it does not have."""
        if model.bundle.bundle_id not in self._bundles:
            self._bundles.add(model.bundle.bundle_id)
            if missing := set(self._segments) - {field.name for field in dividing(model.schema, self._segments)}:
                self._log.warning("segments_missing", features=sorted(missing), bundle_id=model.bundle.bundle_id)

    def _take_events(self, events: LoggedEvents) -> None:
        received = list(records_of(events))
        wanted = [event for event in received if event.request_id is None or is_sampled(event.request_id, self._share)]
        self._count(EVENTS, "unsampled", len(received) - len(wanted))
        for event in wanted:
            self._observed.event(event)
            self._events.add(event, events.size // len(received), 1)
        if self._events.ids >= _BATCH_IDS:
            self._convert(self._events)

    def _flush(self, *, is_last: bool = False) -> None:
        """Write records that are due; all of them if it is the last time."""
        for waiting in (self._requests, self._events):
            if waiting.is_due(is_last):
                self._write(waiting)

    def _convert(self, waiting: "_Waiting") -> None:
        count = len(waiting.records)
        try:
            waiting.convert()
        except Exception as error:  # a value that Parquet cannot hold, say
            self._lost(waiting.kind, count, error)

    def _write(self, waiting: "_Waiting") -> None:
        from service.request_log.files import encode_batches, return_free_memory

        self._convert(waiting)
        count, batches = waiting.taken()
        try:
            if batches and not self._is_abandoned:
                self._folder.add(waiting.kind, encode_batches(batches))
        except Exception as error:  # the disk, first of all
            self._lost(waiting.kind, count, error)
        else:
            self._count(waiting.kind, "written", count)
        del batches
        return_free_memory()

    def _count(self, kind: str, result: _Result, count: int) -> None:
        if not self._is_abandoned:
            self._settle(kind, result, count)

    def _settle(self, kind: str, result: _Result, count: int) -> None:
        results = self._metrics.log_events if kind == EVENTS else self._metrics.log_records
        results[result].inc(count)
        self.settled[kind] += count
        self.lost[kind] += count if result == "lost" else 0

    def _lost(self, kind: str, count: int, error: Exception) -> None:
        self._count(kind, "lost", count)
        if time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + _LOG_AGAIN_S
            is_ours = isinstance(error, MsdError | OSError)
            self._log.error("request_log_failed", reason=str(error), exc_info=None if is_ours else error)


class _Waiting:
    """Records of one kind that are not in a file yet: the latest as objects, others as batches of columns."""

    def __init__(self, kind: str, full: int, flush_s: float) -> None:
        self.kind = kind
        self.records: list[RequestRecord | EventRecord] = []
        self.ids = 0
        self._batches: list[Batch] = []
        self._full, self._flush_s = full, flush_s
        self._bytes = 0
        self._since = 0.0

    def add(self, record: RequestRecord | EventRecord, size: int, ids: int) -> None:
        """Add a record of about `size` bytes with this many IDs."""
        if not (self.records or self._batches):
            self._since = time.monotonic()
        self.records.append(record)
        self.ids += ids
        self._bytes += size

    def is_due(self, is_last: bool) -> bool:
        """Return whether there are records that are due: many, old, or the last."""
        is_long = self._bytes >= self._full or time.monotonic() - self._since >= self._flush_s
        return bool(self.records or self._batches) and (is_long or is_last)

    def convert(self) -> None:
        """Convert the latest records to columns. If that fails, they are lost."""
        records, self.records, self.ids = self.records, [], 0
        if records:
            from service.request_log.files import to_batch

            self._batches.append(to_batch(records))

    def taken(self) -> "tuple[int, list[Batch]]":
        """Return the number of records in batches, and the batches; none wait any more."""
        batches, self._batches, self._bytes = self._batches, [], 0
        return sum(batch.num_rows for batch in batches), batches


def record_of(served: Served, segments: Sequence[str] = ()) -> RequestRecord:
    """Return the record of a request. Raises UnicodeEncodeError for an ID with a lone surrogate, which UTF-8 lacks."""
    model, basis, degraded = served.model, served.basis, served.degraded_candidates
    request = parse_request(served.body, model.schema)
    candidates, user_id = request.candidates, request.user_id or ANONYMOUS
    engine = model.engine
    user, items = basis.user, basis.items
    columns = list(served.scores.values())
    ecpm = ecpm_of(candidates.bid, candidates.pricing, served.scores, model.bundle.manifest.formula)
    choice = served.choice
    first = None if choice is None else choice.first
    impressions = user.histories[0]
    history = [seen.item_id for seen in impressions]
    "".join([served.request_id, user_id, *candidates.id, *history]).encode()
    return RequestRecord(
        request_id=served.request_id,
        received_at=served.received_at,
        at=basis.at,
        arm=served.arm,
        arm_share=served.arm_share,
        model_version=model.version,
        bundle_id=model.bundle.bundle_id,
        manifest_sha256=model.identity,
        engine=engine.key,
        runtime_version=engine.version,
        instructions=" ".join(engine.instructions),
        threads=engine.threads,
        ran=basis.ran,
        is_partial=basis.is_partial,
        is_shared=basis.is_shared,
        user_id=user_id,
        request=served.body,
        history=history,
        item_ids=candidates.id,
        bids=candidates.bid,
        user_row=user.records.tobytes(),
        user_found=bool(user.found[0]),
        user_stale=None if user.stale is None else bool(user.stale[0]),
        item_rows=items.records.tobytes(),
        items_found=items.found.tobytes(),
        items_stale=None if items.stale is None else items.stale.tobytes(),
        heads=list(served.scores),
        scores=columns,
        degraded_user=served.degraded_user,
        rungs=[degraded.get(item_id) for item_id in candidates.id] if degraded else None,
        correction=None if served.correction is None else served.correction.values,
        served=None if request.top_k is None else served_places(ecpm, columns[0], request.top_k, first).tolist(),
        pricing=candidates.pricing,
        explore=None if choice is None else choice.as_record(),
        impressions=[number for seen in impressions for number in (seen.at, seen.shown, seen.clicked)],
        segments=segments_of(request, model.schema, segments),
        slot=model.schema.slot_of(request.first_slot),
        **{name: 1000 * seconds for name, seconds in zip(_STAGES, served.seconds, strict=True)},
    )


def records_of(events: LoggedEvents) -> Iterator[EventRecord]:
    for event in orjson.loads(events.body)["events"]:
        yield EventRecord(
            event_id=event["event_id"],
            type=event["type"],
            user_id=event["user_id"] or ANONYMOUS,
            item_id=event["item_id"],
            at=events.received_at if event.get("at") is None else event["at"],
            request_id=event.get("request_id"),
            received_at=events.received_at,
            position=event.get("position"),
            value=event.get("value"),
            currency=event.get("currency"),
        )


def open_request_log(settings: Settings, metrics: Metrics) -> RequestLog | None:
    """Return the log, None without `MSD_LOG_DIR`. Raises MsdError if the folder is unusable, or pyarrow is not
    installed."""
    if settings.log_dir is None:
        return None
    if find_spec("pyarrow") is None:
        raise MsdError("MSD_LOG_DIR needs pyarrow, which is not installed: pip install 'msd-ctr[log]'")
    from service.request_log.files import LogFolder

    folder = LogFolder(settings.log_dir, settings.log_max_mb * 2**20, limits.LOG_MAX_AGE_S)
    segments = [name for name in (settings.log_segments or "").replace(" ", "").split(",") if name]
    writer = LogWriter(folder, metrics, settings.log_sample, limits.LOG_FLUSH_S, segments)
    return RequestLog(writer, settings.log_sample, min(_TICK_S, limits.LOG_FLUSH_S), metrics)


def is_sampled(request_id: str, share: float) -> bool:
    """Return whether a request is in the logged share: the same answer everywhere."""
    return zlib.crc32(request_id.encode()) < share * 2**32
