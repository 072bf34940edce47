"""The request log as the service sees it: the event loop hands over sampled requests and events, and one thread makes
and writes their records. Nothing waits for it: what its queue has no room for is dropped and counted.
"""

import asyncio
import threading
import time
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import structlog

from msd.contract.errors import MsdError
from msd.contract.log import is_sampled
from service.cores import give_way
from service.models.lineup import Lineup
from service.request_log.folder import LogFolder
from service.request_log.served import Events
from service.scoring.answer import Answer, Served
from service.settings import Settings
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from service.request_log.writer import LogWriter

_MAX_BYTES, _MAX_COUNT = 16 * 2**20, 4_096
_TICK_S = 1.0
# Python's lock is shared with those who answer requests: of its time the thread takes a third at most.
_PAUSES_PER_WORK = 2.0
_CLOSE_WITHIN_S = 3.0


class RequestLog:
    """All methods are for the event loop. `share` of the requests are logged."""

    def __init__(self, writer: "LogWriter", share: float, tick_s: float, metrics: Metrics) -> None:
        self._writer = writer
        self._share = share
        self._tick_s = tick_s
        self._metrics = metrics
        self._queue: SimpleQueue[Served | Events | None] = SimpleQueue()
        # Sums since the start, each written by one thread alone, so that no lock is needed: told by the loop, taken by
        # the thread. What waits is their difference.
        self._told_bytes = self._told_count = 0
        self._taken_bytes = self._taken_count = 0
        self._closing = threading.Event()
        self._log = structlog.get_logger("msd.request_log")
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def wants(self, lineup: Lineup, request_id: str) -> bool:
        """Whether a request is of the sample."""
        return is_sampled(request_id, self._share)

    def follow(self, answer: Answer) -> None:
        """Log a request whose reply has been sent, if it is of the sample."""
        if answer.served is not None and is_sampled(answer.served.request_id, self._share):
            self.request(answer.served)

    def request(self, served: Served) -> None:
        """Log a request whose reply has been sent."""
        self._metrics.log_records["handed" if self._tell(served) else "dropped"].inc()

    def events(self, body: bytes, count: int) -> None:
        """Log the `count` events of an accepted body of `POST /v1/events`."""
        is_told = self._tell(Events(body, count, time.time()))
        self._metrics.log_events["handed" if is_told else "dropped"].inc(count)

    async def close(self) -> None:
        """Write what was handed over, for 3 s at most. Nothing may be handed over after this."""
        self._closing.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, _CLOSE_WITHIN_S)
        if self._thread.is_alive():
            waiting = self._told_count - self._taken_count
            self._log.error("request_log_unfinished", seconds=_CLOSE_WITHIN_S, waiting=waiting)

    def _tell(self, told: Served | Events) -> bool:
        """False if there is no room."""
        size = told.size
        waiting_bytes = self._told_bytes - self._taken_bytes
        if waiting_bytes + size > _MAX_BYTES or self._told_count - self._taken_count >= _MAX_COUNT:
            return False
        self._told_bytes += size
        self._told_count += 1
        self._queue.put(told)
        return True

    def _work(self) -> None:
        give_way()
        writer, tick_at = self._writer, time.monotonic() + self._tick_s
        while True:
            began = time.thread_time()
            try:
                told = self._queue.get(timeout=max(0.0, tick_at - time.monotonic()))
            except Empty:
                writer.tick()
                tick_at = time.monotonic() + self._tick_s
            else:
                if told is None:
                    break
                size = told.size
                writer.take(told)
                # Only now, so that a writer that hangs fills the queue.
                self._taken_bytes += size
                self._taken_count += 1
                if time.monotonic() >= tick_at:
                    writer.tick()
                    tick_at = time.monotonic() + self._tick_s
            self._closing.wait(_PAUSES_PER_WORK * (time.thread_time() - began))
        writer.close()


def open_request_log(settings: Settings, metrics: Metrics) -> RequestLog | None:
    """None without `MSD_LOG_DIR`. Raises MsdError if the folder cannot be used, or pyarrow is not installed."""
    if settings.log_dir is None:
        return None
    if find_spec("pyarrow") is None:
        raise MsdError("MSD_LOG_DIR needs pyarrow, which is not installed: pip install 'msd-ctr[log]'")
    from service.request_log.writer import LogWriter

    folder = LogFolder(settings.log_dir, settings.log_max_mb * 2**20, settings.log_max_days * 86_400.0)
    writer = LogWriter(folder, metrics, settings.log_sample, settings.log_flush_seconds)
    return RequestLog(writer, settings.log_sample, min(_TICK_S, settings.log_flush_seconds), metrics)
