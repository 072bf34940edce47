"""Requests in flight on all connections: the bytes that they hold, and which go first when room is needed. Knows
neither HTTP nor the limits of one request.
"""

import ctypes
from typing import Protocol

# Memory is returned only after a peak above this: less is used again soon.
_WORTH_TRIMMING = 2**23


class RoomHolder(Protocol):
    """One client's connection, which may have to make room."""

    @property
    def is_owed_replies(self) -> bool:
        """Return whether a whole request is not answered yet."""
        ...

    def give_way(self) -> None:
        """Refuse the unfinished request, and close."""
        ...

    def give_place(self) -> None:
        """Close, to make room for a new connection."""
        ...


class Inflight:
    """Bytes of unfinished heads and bodies, and of whole ones that are not answered yet."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.silent: dict[RoomHolder, float] = {}
        """Connections without a whole head, with their start by `time.monotonic`; oldest first."""
        self.unfinished: dict[RoomHolder, None] = {}
        """Connections whose latest request is unfinished, oldest first."""
        self._peak = 0

    def has_room(self, wanting: RoomHolder) -> bool:
        """Refuse the oldest unfinished requests until all bytes fit. Return False if `wanting` itself would be
        refused."""
        self._peak = max(self._peak, self.held)
        while self.held > self.limit:
            oldest = next(iter(self.unfinished), wanting)
            if oldest is wanting:
                return False
            oldest.give_way()
        return True

    def forget(self, connection: RoomHolder) -> None:
        self.silent.pop(connection, None)
        self.unfinished.pop(connection, None)

    def is_over(self) -> bool:
        """Return whether a peak is over. Called about once a second; true several times in a row, because connections
        end a moment after their requests."""
        self._peak = max(self._peak, self.held)
        if self._peak < _WORTH_TRIMMING or self.held > self._peak // 4:
            return False
        self._peak //= 2
        return True


def return_free_memory() -> None:
    """Return memory that the allocator keeps to the system; a no-op if the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
