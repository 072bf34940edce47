"""Prefetches rows: the most shown ones after a start, the cached ones after a lost connection.

It reads a few rows at once, then pauses, so that neither Redis nor requests suffer, however many services start
together. Does not know how rows are read, nor which are evicted.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from msd.contract.rows import RowSide
from service.errors import StoreError
from service.rows.arena import Arena
from service.telemetry.metric_types import Standing

_CHUNK = 100
# Random delay for services that start, or lost the same Redis, together.
_STAGGER_S = 1.0
_RETRY_S = 1.0
# Minimum pause, as a multiple of the preceding read.
_REST = 4.0


class Prefetched(NamedTuple):
    """Outcome of a read: whether the arena had room for all of it, and whether all nodes answered."""

    was_room: bool
    is_whole: bool


class Fill:
    """A task of the event loop, bounded by `rows_per_s`.

    `read` reads rows into their arena, `shown` the n-th part of the most shown IDs (None: there is none); both raise
    StoreError if nothing can be read. `epochs` are the current ones.
    """

    def __init__(
        self,
        arenas: Mapping[RowSide, Arena],
        read: Callable[[RowSide, Sequence[str]], Awaitable[Prefetched]],
        shown: Callable[[RowSide, int], Awaitable[Sequence[str] | None]],
        epochs: Callable[[], Sequence[int]],
        rows_per_s: float,
        standing: Standing,
    ) -> None:
        self._arenas = arenas
        self._read, self._shown, self._epochs = read, shown, epochs
        self._rows_per_s = rows_per_s
        self._standing = standing
        self._is_due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, unless it has started."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def again(self) -> None:
        """Start again: there is a new connection, or a new list of most shown IDs."""
        self._is_due.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._standing.set(None)

    async def _run(self) -> None:
        while True:
            self._standing.set("waiting")
            await asyncio.sleep(_STAGGER_S * random.random())
            self._is_due.clear()
            try:
                await self._fill()
            except StoreError:
                await asyncio.sleep(_RETRY_S)
            else:
                await self._is_due.wait()

    async def _fill(self) -> None:
        """Prefetch everything. Raises StoreError if some of it is unavailable now."""
        self._standing.set("filling")
        is_whole = True
        for side in self._arenas:
            is_whole &= await self._refresh(side)
        sides = list(self._arenas)
        for number in count():
            sides = [side for side in sides if await self._prefetch_shown(side, number)]
            if not sides:
                break
        if not is_whole:
            raise StoreError("some node did not answer")
        self._standing.set("done" if all(arena.has_room for arena in self._arenas.values()) else "full")

    async def _refresh(self, side: RowSide) -> bool:
        """Re-read entries of earlier connections; return whether all were available."""
        arena, place, is_whole = self._arenas[side], 0, True
        while place < arena.end:
            ids, place = arena.of_other_epochs(self._epochs(), place, _CHUNK)
            if ids:
                is_whole &= (await self._prefetch(side, ids)).is_whole
        return is_whole

    async def _prefetch_shown(self, side: RowSide, number: int) -> bool:
        """Read the n-th part of the most shown rows; return whether there may be another, and room for it."""
        arena = self._arenas[side]
        if not arena.has_room or (ids := await self._shown(side, number)) is None:
            return False
        wanted = arena.lacks(ids, self._epochs())
        for start in range(0, len(wanted), _CHUNK):
            if not (await self._prefetch(side, wanted[start : start + _CHUNK])).was_room:
                return False
        return True

    async def _prefetch(self, side: RowSide, ids: Sequence[str]) -> Prefetched:
        started = time.perf_counter()
        prefetched = await self._read(side, ids)
        pause = max(len(ids) / self._rows_per_s, _REST * (time.perf_counter() - started))
        await asyncio.sleep(pause * random.uniform(0.75, 1.25))
        return prefetched
