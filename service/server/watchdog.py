"""Watchdog: detects hangs, and ends a process that does not end itself.

Its thread waits for nothing that a request, a model run or a log reader may hold. Does not know why something hangs.
"""

import faulthandler
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import structlog

from native import core
from service import limits
from service.settings import Settings
from service.telemetry.metrics import Metrics

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_EVERY_S = 1.0
_STDERR = 2


class Liveness:
    """Liveness of the event loop and the scoring threads. For any thread."""

    def __init__(self, limit_s: float, queue: Callable[[], "core.Heartbeat"], metrics: Metrics) -> None:
        self._limit_s = limit_s
        self._queue = queue
        self._beat_at: float | None = None
        metrics.loop_silent.set_function(self.loop_silent_s)
        metrics.scoring_silent.set_function(self.scoring_silent_s)
        metrics.longest_run.set_function(lambda: self._queue().longest_s)

    def beat(self) -> None:
        """Record progress; called by the event loop several times a second."""
        self._beat_at = time.monotonic()

    def loop_silent_s(self) -> float:
        """Seconds since the loop's latest beat; 0 before the first."""
        return 0.0 if self._beat_at is None else time.monotonic() - self._beat_at

    def scoring_silent_s(self) -> float:
        """Seconds since a scoring thread last began or ended a job, while all run one; otherwise 0."""
        queue = self._queue()
        return queue.quiet_s if queue.running >= queue.threads else 0.0

    @property
    def is_running(self) -> bool:
        return self._queue().running > 0

    def hangs(self) -> dict[str, str]:
        """Return the reason by hanging part; empty if nothing hangs."""
        silent = {"event_loop": self.loop_silent_s(), "scoring": self.scoring_silent_s()}
        return {part: f"hangs for {seconds:.0f} s" for part, seconds in silent.items() if seconds > self._limit_s}


def grace_of(settings: Settings) -> float:
    """Return the seconds after the first signal at which the process is ended at the latest."""
    return max(settings.grace_seconds, settings.drain_seconds + limits.END_S)


class Watchdog:
    """A thread that handles signals whatever the main thread does, and ends the process: at once, before it listens and
    on a second SIGINT or SIGTERM; some time after the first signal; and if no thread gets Python's lock for too long.

    The latter two use a timer that does not need the lock.
    """

    def __init__(self, drain_s: float, grace_s: float, hang_s: float) -> None:
        """`grace_s`: how long the process may live after the first signal while its event loop makes progress."""
        self.folder: Path | None = None
        """Folder to remove if the process is ended at once."""
        self._ends_after_s = drain_s + limits.END_S
        self._grace_s = grace_s
        self._lock_limit_s = max(hang_s, self._ends_after_s)
        self._liveness: Liveness | None = None
        self._ends_at: float | None = None
        self._grace_ends_at = 0.0
        self._terminated_at: float | None = None
        self._has_logged_hang = False
        self._signal_reader, self._signal_writer = socket.socketpair()
        self._signal_reader.settimeout(_EVERY_S)
        self._signal_writer.setblocking(False)
        self._ending = threading.Lock()

    def start(self) -> None:
        self.listen()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def listen(self) -> None:
        """Direct Python's C-level signal handler, which runs in any thread, to this watchdog; for the main thread.
        Starting an event loop redirects it."""
        signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)

    def follow(self, liveness: Liveness) -> None:
        """Start watching for hangs; from now on a lock that no thread gets ends the process."""
        self._liveness = liveness
        # This thread may not get the lock when it next runs.
        self._expect_lock()

    def _watch(self) -> None:
        while True:
            try:
                numbers = self._signal_reader.recv(64)
            except TimeoutError:
                numbers = b""
            for number in numbers:
                if number in SIGNALS:
                    self._handle(number)
            if self._ends_at is not None:
                self._put_off(self._ends_at)
                if time.monotonic() > self._ends_at + _EVERY_S:  # the timer waits for a reader of stderr
                    os._exit(1)
            elif self._liveness is not None:
                self._expect_lock()
                self._log_hangs(self._liveness.hangs())

    def end(self, status: int) -> NoReturn:
        self._ending.acquire()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(status)

    def await_end(self) -> None:
        """Block for good if the process is being ended: other threads' errors may come of the removed folder."""
        with self._ending:
            pass

    def _expect_lock(self) -> None:
        faulthandler.dump_traceback_later(self._lock_limit_s, exit=True, file=_STDERR)

    def _handle(self, number: int) -> None:
        if self._liveness is None or self._is_second(number):
            self.end(0)
        if self._ends_at is None:
            now = time.monotonic()
            self._ends_at, self._grace_ends_at = now + self._ends_after_s, now + self._grace_s
            faulthandler.dump_traceback_later(self._ends_after_s, exit=True, file=_STDERR)

    def _is_second(self, number: int) -> bool:
        """Return whether this signal asks for the end at once. `timeout` sends each SIGTERM twice, to the process and
        to its group."""
        if number == signal.SIGINT:
            return self._ends_at is not None
        if number != signal.SIGTERM:
            return False
        first, now = self._terminated_at, time.monotonic()
        self._terminated_at = now if first is None else first
        return first is not None and now - first > _EVERY_S

    def _put_off(self, ends_at: float) -> None:
        """Put the end off while the event loop makes progress, as it does while the request log is written."""
        if self._liveness is None:
            return
        progress_s = limits.END_S - self._liveness.loop_silent_s()
        later = min(self._grace_ends_at, time.monotonic() + progress_s)
        if later > ends_at:
            self._ends_at = later
            faulthandler.dump_traceback_later(max(0.001, later - time.monotonic()), exit=True, file=_STDERR)

    def _log_hangs(self, hangs: dict[str, str]) -> None:
        if hangs and not self._has_logged_hang:
            faulthandler.dump_traceback(_STDERR)
            structlog.get_logger("msd.watchdog").error("hangs", **hangs)
        self._has_logged_hang = bool(hangs)
