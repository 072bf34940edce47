"""Cache of rows of one side, in one buffer of bounded size; rarely used rows are evicted.

Does not know where rows come from, nor whether they are current: it keeps what it gets until it is told to drop it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import native
from msd.contract.errors import MsdError
from msd.contract.rows import Records, RowCodec, Rows, pack_history, unpack_history
from msd.contract.state import Impression

ROW_OVERHEAD = 250
"""Memory of an ID beside its characters and the row, approximately."""
LET_GO = 1_000
"""IDs to let go of at once, which take less than a millisecond."""


class ArenaPlaces(NamedTuple):
    """Cached entries of n IDs: places [n], −1 if not cached, and the epoch of each [n]."""

    places: NDArray[np.int64]
    epochs: NDArray[np.int64]


class Arena:
    """IDs, rows, and for users histories. The absence of a row is cached too.

    Eviction is CLOCK: a hand goes round, skips entries used since its last pass once, and takes others; entries used
    only once go first.
    """

    def __init__(self, codec: RowCodec, max_bytes: int) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._row_bytes = codec.dtype.itemsize + ROW_OVERHEAD
        capacity = max_bytes // self._row_bytes
        try:
            self._records = np.zeros(capacity, f"V{codec.dtype.itemsize}")
            self._found = np.zeros(capacity, bool)
            self._epochs = np.zeros(capacity, np.int64)
            self._touched = np.zeros(capacity, bool)
        except MemoryError:
            raise MsdError(
                f"no memory for {max_bytes} bytes of {codec.side} rows, half of MSD_CACHE_MB: lower it"
            ) from None
        self._ids = native.core.IdMap(capacity)
        """From IDs to places. One thread writes; the core reads concurrently, without Python's lock."""
        self._free: list[int] = []
        self._hand = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._ids)

    def look_up(self, ids: Sequence[str]) -> ArenaPlaces:
        """Return the cached entries of IDs [n], and mark them as used."""
        places = np.empty(len(ids), np.int64)
        self._ids.find_all(ids, places)
        if not self._ids.end:
            return ArenaPlaces(places, places)
        self._touched[places[places >= 0]] = True
        return ArenaPlaces(places, self._epochs.take(places, mode="wrap"))

    def rows(self, places: NDArray[np.int64]) -> Rows:
        """Return copies of the rows in places [n], all of them in use."""
        records: Records = self._records.take(places).view(self._codec.dtype)
        histories: tuple[tuple[Impression, ...], ...] = ()
        if self._codec.side == "user":
            histories = tuple(unpack_history(self._ids.tail(place)) or () for place in places.tolist())
        return Rows(records, self._found.take(places), histories, 0)

    def core(self) -> "native.core.Arena":
        """Return the native core's view of the arena. To be dropped with the arena."""
        size = self._codec.dtype.itemsize
        return native.core.Arena(self._ids, self._records, self._found, self._epochs, self._touched, size)

    def put(self, ids: Sequence[str], rows: Rows, epoch: int) -> None:
        """Cache the rows of distinct IDs, or their absence, as far as each fits."""
        if not len(self._records):
            return
        tails = [pack_history(history) for history in rows.histories] or [b""] * len(ids)
        for row, (row_id, tail) in enumerate(zip(ids, tails, strict=True)):
            size = self._size_of(row_id, tail)
            if self._make_room(size):
                self._hold(row_id, tail, size, rows, row, epoch)
            else:
                self.drop(row_id)

    def drop(self, row_id: str) -> None:
        if (held := self._ids.find(row_id)) >= 0:
            self._bytes -= self._size_of(row_id, self._ids.tail(held))
            self._free.append(self._ids.drop(row_id))

    def let_go(self, most: int) -> bool:
        """Free the arena for good: up to `count` IDs at once, so that others need not wait long, and its memory with
        the last; return whether there are more.

        The garbage collector skips old objects, which must not keep it alive.
        """
        del self._free[-most:]
        if self._ids.trim(most) or self._free:
            return True
        self._records, self._found = self._records[:0].copy(), self._found[:0].copy()
        self._epochs, self._touched = self._epochs[:0].copy(), self._touched[:0].copy()
        return False

    def _size_of(self, row_id: str, tail: bytes) -> int:
        return self._row_bytes + len(row_id.encode()) + len(tail)

    def _make_room(self, size: int) -> bool:
        """Evict others until `size` bytes fit; return whether they can fit at all."""
        if size > self._max_bytes:
            return False
        while self._bytes + size > self._max_bytes:
            self._evict()
        return True

    def _hold(self, row_id: str, tail: bytes, size: int, rows: Rows, row: int, epoch: int) -> None:
        """Take a place for an ID whose `size` bytes fit."""
        self._bytes += size
        place = self._free.pop() if self._free else self._ids.end
        self._records[place] = rows.records[row].tobytes()
        self._found[place], self._epochs[place], self._touched[place] = rows.found[row], epoch, False
        if (before := self._ids.find(row_id)) >= 0:
            self._bytes -= self._size_of(row_id, self._ids.tail(before))
            self._free.append(before)
        # Last, because the row may be read from now on.
        self._ids.put(place, row_id, tail)

    def _evict(self) -> None:
        while True:
            place = self._hand = (self._hand + 1) % self._ids.end
            row_id = self._ids.id(place)
            if row_id is not None and not self._touched[place]:
                self.drop(row_id)
                return
            self._touched[place] = False
