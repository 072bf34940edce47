"""Rows of one side that were fetched before, in one buffer of bounded size; those least asked for make room.

Does not know where rows come from, nor whether they still are what they were: it holds what it is given until it is
told to drop it.
"""

import sys
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.contract.rows import Records, RowCodec, Rows, pack_history, unpack_history

# What Python takes for an id's places, beside the id and the row themselves, about.
_OVERHEAD = 200
_ID_BYTES = 70


class Held(NamedTuple):
    """What the arena has of n ids: places [n], −1 where nothing, and the epoch in which each was put there [n]."""

    places: NDArray[np.int64]
    epochs: NDArray[np.int64]


class Arena:
    """Ids, rows, and for users histories. An id of which it is known that it has no row is held like any other.

    Eviction is CLOCK: a hand goes round, passes over once what was asked for since it last came by, and takes what was
    not; so what is asked for once only is the first to go.
    """

    def __init__(self, codec: RowCodec, max_bytes: int) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._row_bytes = codec.dtype.itemsize + _OVERHEAD
        capacity = max_bytes // self._row_bytes
        try:
            self._records = np.zeros(capacity, f"V{codec.dtype.itemsize}")
            self._found = np.zeros(capacity, bool)
            self._epochs = np.zeros(capacity, np.int64)
            self._touched = np.zeros(capacity, bool)
        except MemoryError:
            raise MsdError(
                f"no memory for {max_bytes} bytes of {codec.side} rows, half of MSD_CACHE_MB: set it lower"
            ) from None
        self._ids: list[str | None] = []
        self._tails: list[bytes] = []
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._hand = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._places)

    def look_up(self, ids: Sequence[str]) -> Held:
        """What is held of the ids [n]; they count as asked for."""
        places = np.fromiter(map(self._places.get, ids, repeat(-1)), np.int64, len(ids))
        if not len(self._ids):
            return Held(places, places)
        self._touched[places[places >= 0]] = True
        return Held(places, self._epochs.take(places, mode="wrap"))

    def rows(self, places: NDArray[np.int64]) -> Rows:
        """Copies of the rows in some places [n], all of them held."""
        records: Records = self._records.take(places).view(self._codec.dtype)
        histories: tuple[tuple[str, ...], ...] = ()
        if self._codec.side == "user":
            histories = tuple(unpack_history(self._tails[place]) or () for place in places.tolist())
        return Rows(records, self._found.take(places), histories, 0)

    def put(self, ids: Sequence[str], rows: Rows, epoch: int) -> None:
        """Holds the rows of some ids, no id twice, or that there are none."""
        if not len(self._records):
            return
        tails = [pack_history(one) for one in rows.histories] or [b""] * len(ids)
        kept, places = [], []
        for row, (one, tail) in enumerate(zip(ids, tails, strict=True)):
            self.drop(one)
            size = self._size_of(one, tail)
            if self._make_room(size):
                kept.append(row)
                places.append(self._take_place(one, tail, size))
                self._touched[places[-1]] = False
        self._write(kept, places, rows, epoch)

    def fill(self, ids: Sequence[str], rows: Rows, epoch: int) -> bool:
        """Holds rows like `put`, but moves nobody out for them and leaves alone what was read in this epoch; whether
        there was room for all."""
        tails = [pack_history(one) for one in rows.histories] or [b""] * len(ids)
        kept, places, was_room = [], [], True
        for row, (one, tail) in enumerate(zip(ids, tails, strict=True)):
            if (old := self._places.get(one, -1)) >= 0 and self._epochs[old] == epoch:
                continue
            was_asked_for = old >= 0 and self._touched[old]
            self.drop(one)
            if self._bytes + (size := self._size_of(one, tail)) > self._max_bytes:
                was_room = False
                continue
            kept.append(row)
            places.append(self._take_place(one, tail, size))
            self._touched[places[-1]] = was_asked_for
        self._write(kept, places, rows, epoch)
        return was_room

    def lacks(self, ids: Sequence[str], epochs: Sequence[int]) -> list[str]:
        """Those of the ids that are not held from one of these epochs; they do not count as asked for."""
        return [one for one in ids if (place := self._places.get(one, -1)) < 0 or self._epochs[place] not in epochs]

    def of_other_epochs(self, epochs: Sequence[int], start: int, count: int) -> tuple[list[str], int]:
        """At most `count` ids that are held from epochs other than these, of places from `start` on; and the place
        after them, which is `end` where there are no more."""
        is_old = np.isin(self._epochs[start : self.end], epochs, invert=True)
        places = np.flatnonzero(is_old)[:count] + start
        found = [one for place in places.tolist() if (one := self._ids[place]) is not None]
        return found, int(places[-1]) + 1 if len(places) == count else self.end

    @property
    def end(self) -> int:
        """The place after the last one that was ever taken."""
        return len(self._ids)

    @property
    def has_room(self) -> bool:
        """Whether one more row of an id like most would move nobody out."""
        return self._bytes + self._row_bytes + _ID_BYTES <= self._max_bytes

    def drop(self, one: str) -> None:
        """Forgets an id."""
        if (place := self._places.pop(one, None)) is not None:
            self._bytes -= self._size_of(one, self._tails[place])
            self._ids[place], self._tails[place] = None, b""
            self._free.append(place)

    def clear(self) -> None:
        """Forgets all."""
        for one in list(self._places):
            self.drop(one)

    def let_go(self, most: int) -> bool:
        """For good: at most so many ids at once, lest others wait, with the last its memory; whether there are more.

        What Python does not collect, because it was there before, is not to keep it.
        """
        for _ in range(min(most, len(self._places))):
            self._places.popitem()
        for column in (self._ids, self._tails, self._free):
            del column[-most:]
        if self._places or self._ids:
            return True
        self._records, self._found = self._records[:0].copy(), self._found[:0].copy()
        self._epochs, self._touched = self._epochs[:0].copy(), self._touched[:0].copy()
        return False

    def _size_of(self, one: str, tail: bytes) -> int:
        return self._row_bytes + sys.getsizeof(one) + len(tail)

    def _make_room(self, size: int) -> bool:
        """Moves others out until there is room for `size` bytes; whether the arena is large enough for them at all."""
        if size > self._max_bytes:
            return False
        while self._bytes + size > self._max_bytes:
            self._evict()
        return True

    def _take_place(self, one: str, tail: bytes, size: int) -> int:
        """A place for an id, for whose `size` bytes there is room."""
        self._bytes += size
        if self._free:
            place = self._free.pop()
            self._ids[place], self._tails[place] = one, tail
        else:
            place = len(self._ids)
            self._ids.append(one)
            self._tails.append(tail)
        self._places[one] = place
        return place

    def _write(self, kept: list[int], places: list[int], rows: Rows, epoch: int) -> None:
        at = np.array(places, np.int64)
        # Of rows that made room for one another within one call, the last one counts.
        self._records[at] = rows.records.view(self._records.dtype)[kept]
        self._found[at] = rows.found[kept]
        self._epochs[at] = epoch

    def _evict(self) -> None:
        while True:
            place = self._hand = (self._hand + 1) % len(self._ids)
            one = self._ids[place]
            if one is not None and not self._touched[place]:
                self.drop(one)
                return
            self._touched[place] = False
