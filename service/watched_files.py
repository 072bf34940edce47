"""Values that are made of files, and made anew when these change, without a restart. Does not know what they are."""

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
    """`value` is the latest that could be made; `stale` is 1 while the files as they are make none: half-written,
    malformed or gone, they leave the value as it was."""

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[[], _T], stale: Gauge) -> None:
        """Raises the MsdError that says why the first cannot be made."""
        self._name, self._paths, self._make, self._stale = name, paths, make, stale
        # Before they are read: what changes meanwhile is seen at the next look.
        self._stamp = _stamp(paths)
        self.value = make()
        self._reason = ""
        self._log = structlog.get_logger("msd.watched")

    def look(self) -> None:
        """Makes the value anew if a file has changed since, or could not be used the last time."""
        stamp = _stamp(self._paths)
        if stamp == self._stamp and not self._reason:
            return
        self._stamp = stamp
        try:
            self.value = self._make()
        except MsdError as error:
            # Of several files the first may be new already, and the others not yet: the next look will tell.
            if str(error) != self._reason:
                self._log.error("not_reloaded", what=self._name, reason=f"{error}; what was read before stays in use")
            self._reason = str(error)
        else:
            self._reason = ""
            self._log.info("reloaded", what=self._name)
        self._stale.set(bool(self._reason))

    async def watch(self) -> None:
        """Looks once a second, for ever. In a thread, because a file system may let its readers wait."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await asyncio.to_thread(self.look)


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """What changes when a file does, or is replaced, or a link on the way to it leads elsewhere."""
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
