"""Values made from files, and remade when these change, without a restart. Does not know what they are.

A file system may hang: each look has a thread of its own, and is given up after a while.
"""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

from msd.contract.errors import MsdError

PERIOD_S = 1.0
LONGEST_LOOK_S = 10.0
"""After which a look is given up, and the next begins."""
_MOST_LOOKS = 4
_T = TypeVar("_T")
_Stamp = tuple[tuple[int, ...] | None, ...]


class Looks(Generic[_T]):
    """Looks in threads that nothing waits for at the end. For one caller at a time."""

    def __init__(self, name: str, look: Callable[[], _T]) -> None:
        self._name, self._look = name, look
        self._unfinished: list[Future[_T]] = []

    def begin(self) -> "Future[_T]":
        """Begin a look; if several hang, return the latest of them."""
        self._unfinished = [look for look in self._unfinished if not look.done()]
        if len(self._unfinished) < _MOST_LOOKS:
            future: Future[_T] = Future()
            future.set_running_or_notify_cancel()
            self._unfinished.append(future)
            threading.Thread(target=self._run, args=(future,), name=f"look-{self._name}", daemon=True).start()
        return self._unfinished[-1]

    def _run(self, future: "Future[_T]") -> None:
        try:
            future.set_result(self._look())
        except BaseException as error:
            future.set_exception(error)


class WatchedFiles(Generic[_T]):
    """`value` is the latest valid one; `stale` is 1 while the current files are half-written, malformed, gone or
    unreadable: they leave the value unchanged. `age` is the seconds since they were valid."""

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[[], _T], stale: Gauge, age: Gauge) -> None:
        """Raises the MsdError of the first value."""
        self._name, self._paths, self._make, self._stale = name, paths, make, stale
        self._valid_at = time.monotonic()
        # Before reading, so that a change meanwhile is noticed at the next look.
        self._stamp = _stamp(paths)
        self.value = make()
        self.changed: Callable[[], None] = lambda: None
        """Called with each new value. For any thread."""
        self._reason = ""
        self._numbers, self._latest = itertools.count(1), 0
        self._lock = threading.Lock()
        self._log = structlog.get_logger("msd.watched")
        age.set_function(lambda: self.age_s)

    @property
    def age_s(self) -> float:
        """Seconds since the files were last found valid."""
        return time.monotonic() - self._valid_at

    def look(self) -> None:
        """Remake the value if a file has changed, or was invalid the last time."""
        number, began, stamp = next(self._numbers), time.monotonic(), _stamp(self._paths)
        try:
            made = None if stamp == self._stamp and not self._reason else self._make()
        except Exception as error:
            # One of several files may be new and another still old: the next look will settle it.
            self._end(number, stamp, began, reason=_reason(error))
        else:
            self._end(number, stamp, began, made)

    async def watch(self) -> None:
        """Look once a second, for ever."""
        looks = Looks(self._name, self.look)
        while True:
            await asyncio.sleep(PERIOD_S)
            done, _ = await asyncio.wait([asyncio.wrap_future(looks.begin())], timeout=LONGEST_LOOK_S)
            if not done:
                self._end(next(self._numbers), self._stamp, self._valid_at, reason="the file system does not answer")

    def _end(self, number: int, stamp: _Stamp, began: float, made: _T | None = None, reason: str = "") -> None:
        with self._lock:
            if number < self._latest:  # a look that hung, and would undo a later one
                return
            self._latest, self._stamp = number, stamp
            if made is not None:
                self.value = made
                self.changed()
            if not reason:
                self._valid_at = began
            if reason and reason != self._reason:
                self._log.error("not_reloaded", what=self._name, reason=f"{reason}; what was read before stays in use")
            elif made is not None:
                self._log.info("reloaded", what=self._name)
            self._reason = reason
            self._stale.set(bool(reason))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, MsdError) else f"{type(error).__name__}: {error}"


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """Return a stamp that changes when a file does, is replaced, or a link in its path leads elsewhere."""
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        return mark_of(path.stat())
    except OSError:
        return None


def mark_of(about: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file does. Its ctime cannot be set."""
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
