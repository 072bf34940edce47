"""Logs as one JSON object per line on stdout, the service's own and those of its libraries.

Logging never blocks: lines go through a bounded queue to a writer thread. Lines that do not fit, and too frequent lines
of one kind, are dropped and counted.
"""

import atexit
import io
import logging
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Literal, TextIO, cast

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, WrappedLogger

LineResult = Literal["written", "dropped", "limited", "lost"]
LINE_RESULTS: tuple[LineResult, ...] = ("written", "dropped", "limited", "lost")
MAX_WAITING_BYTES = 2**20
LINES_PER_S, LINES_AT_ONCE = 20.0, 200.0
_MAX_KINDS = 512
# A pipe that poll reports as writable takes this many bytes at once without blocking (PIPE_BUF).
_AT_ONCE = 4_096
_MAX_BEGUN = 2**16
_FLUSH_S = 1.0
_STDOUT, _STDERR = 1, 2


def keep_standard_streams() -> None:
    """Open closed descriptors among 0 to 2: otherwise files or connections could get these numbers, and libraries would
    write their messages into them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


def configure_logs(level: str) -> "LineCounts":
    """Set up the process's logging and replace its standard streams; `level` is the lowest that is written.

    Returns the counts of lines. At exit the process waits a second per stream at most until they are written.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    counts = LineCounts()
    output, errors = (LineWriter(_detached(descriptor), counts) for descriptor in (_STDOUT, _STDERR))
    sys.stdout, sys.stderr = cast(TextIO, _Stream(output, _STDOUT)), cast(TextIO, _Stream(errors, _STDERR))
    limit, stamp = LineLimit(counts), structlog.processors.TimeStamper(fmt="iso", utc=True)
    as_json = structlog.processors.JSONRenderer(default=str, separators=(",", ":"))
    rendered = structlog.processors.format_exc_info, as_json
    structlog.configure(
        processors=[limit, add_log_level, stamp, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(limit.filter)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[add_logger_name, add_log_level, stamp, ExtraAdder(["suppressed"])],
            processors=[ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.INFO))
    return counts


def close_logs() -> None:
    """Write queued lines before the process ends without its exit handlers."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Stream):
            stream.finish()


class LineCounts:
    def __init__(self) -> None:
        # Reentrant: the garbage collector may run a finaliser that logs while this thread holds the lock.
        self._lock = threading.RLock()
        self._counts: dict[str, float] = dict.fromkeys(LINE_RESULTS, 0)

    def add(self, result: LineResult) -> None:
        with self._lock:
            self._counts[result] += 1

    def read(self) -> dict[str, float]:
        """Return the counts since the start, by result."""
        return self._counts.copy()


class LineWriter:
    """Writes lines to a descriptor in a separate thread."""

    def __init__(self, descriptor: int, counts: LineCounts) -> None:
        self._descriptor = descriptor
        self._counts = counts
        self._lock = threading.RLock()
        self._waiting_bytes = 0
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="log-lines", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: bytes) -> None:
        """Queue one line, with its newline; drop it if the queue is full."""
        with self._lock:
            if self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
                self._counts.add("dropped")
                return
            self._waiting_bytes += len(line)
            self._queue.put(line)

    def close(self) -> None:
        """Write queued lines, for a second at most."""
        self._closing.set()
        self._queue.put(b"")
        self._thread.join(_FLUSH_S)

    def _work(self) -> None:
        while True:
            try:
                line = self._queue.get(block=not self._closing.is_set())
            except Empty:
                return
            if not line:
                continue
            self._counts.add("written" if self._is_written(line) else "lost")
            with self._lock:
                self._waiting_bytes -= len(line)

    def _is_written(self, line: bytes) -> bool:
        """Write a whole line, however long that takes. Return False if it is lost: the disk is full or the pipe's
        reader is gone."""
        writable, left = select.poll(), memoryview(line)
        writable.register(self._descriptor, select.POLLOUT)
        while left:
            writable.poll()
            try:
                left = left[os.write(self._descriptor, left[:_AT_ONCE]) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True


class LineLimit:
    """Drops too frequent lines of one kind, before they are made; the next written line says how many."""

    def __init__(self, counts: LineCounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts, self._clock = counts, clock
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Return the event, or raise structlog.DropEvent."""
        if (suppressed := self._suppressed(method, event["event"], event.get("status"))) is None:
            raise structlog.DropEvent
        if suppressed:
            event["suppressed"] = suppressed
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a library's line. They are grouped by logger: their texts may quote a client's
        bytes."""
        if suppressed := self._suppressed(record.levelname, record.name):
            record.suppressed = suppressed
        return suppressed is not None

    def _suppressed(self, *kind: object) -> int | None:
        """Return how many lines of a kind were dropped before this one; None if it is dropped, too."""
        if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            kind = ()
        bucket = self._kinds.setdefault(kind, _Kind(self._clock()))
        if not bucket.takes(self._clock()):
            self._counts.add("limited")
            return None
        suppressed, bucket.suppressed = bucket.suppressed, 0
        return suppressed


class _Kind:
    """Token bucket. Concurrent threads may take a token too many, and never wait."""

    def __init__(self, now: float) -> None:
        self._tokens, self._filled_at = LINES_AT_ONCE, now
        self.suppressed = 0

    def takes(self, now: float) -> bool:
        self._tokens = min(LINES_AT_ONCE, self._tokens + LINES_PER_S * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1:
            self.suppressed += 1
            return False
        self._tokens -= 1
        return True


class _Stream(io.TextIOBase):
    """A standard stream of Python (warnings, tracebacks, prints), as lines."""

    def __init__(self, output: LineWriter, descriptor: int) -> None:
        self._output, self._descriptor = output, descriptor
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Buffer text, and write whole lines."""
        lines = (self._begun + text).splitlines(keepends=True)
        self._begun = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        for line in lines:
            self._output.write(line.encode("utf-8", "backslashreplace"))
        if len(self._begun) > _MAX_BEGUN:
            self.flush()
        return len(text)

    def flush(self) -> None:
        begun, self._begun = self._begun, ""
        if begun:
            self._output.write(begun.encode("utf-8", "backslashreplace"))

    def finish(self) -> None:
        """Write what is queued; lines that come later are lost."""
        self.flush()
        self._output.close()


def _detached(descriptor: int) -> int:
    """Return a copy of a standard descriptor for the writer thread, and replace it by a non-blocking one.

    C libraries and faulthandler write there themselves: if nothing reads, their output is lost. This works for pipes
    and terminals, which are reopened; the inherited one shares its file status with other processes.
    """
    copy = os.dup(descriptor)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        with suppress(OSError):  # no /proc, or opened by another user
            fresh = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(fresh, descriptor)
            os.close(fresh)
    return copy
