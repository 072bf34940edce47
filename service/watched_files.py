"""Values made from files, and remade when these change, without a restart. Does not know what they are."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

from msd.contract.errors import MsdError

PERIOD_S = 1.0
_T = TypeVar("_T")
_Stamp = tuple[tuple[int, ...] | None, ...]


class WatchedFiles(Generic[_T]):
    """`value` is the latest valid one; `stale` is 1 while the current files are invalid: half-written, malformed or
    gone, they leave the value unchanged."""

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[[], _T], stale: Gauge) -> None:
        """Raises the MsdError of the first value."""
        self._name, self._paths, self._make, self._stale = name, paths, make, stale
        # Before reading, so that a change meanwhile is noticed at the next look.
        self._stamp = _stamp(paths)
        self.value = make()
        self._reason = ""
        self._log = structlog.get_logger("msd.watched")

    def look(self) -> None:
        """Remake the value if a file has changed, or was invalid the last time."""
        stamp = _stamp(self._paths)
        if stamp == self._stamp and not self._reason:
            return
        self._stamp = stamp
        try:
            self.value = self._make()
        except MsdError as error:
            # One of several files may be new and another still old: the next look will settle it.
            if str(error) != self._reason:
                self._log.error("not_reloaded", what=self._name, reason=f"{error}; what was read before stays in use")
            self._reason = str(error)
        else:
            self._reason = ""
            self._log.info("reloaded", what=self._name)
        self._stale.set(bool(self._reason))

    async def watch(self) -> None:
        """Look once a second, for ever, in a thread, because a file system may block."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await asyncio.to_thread(self.look)


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """Return a stamp that changes when a file does, is replaced, or a link in its path leads elsewhere."""
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
