"""Requests in flight on all connections together: the bytes that they hold, and who goes first when room is needed.

Knows neither HTTP nor limits of one request.
"""

import ctypes
from typing import Protocol

# What was held at most, for its memory to be worth returning: less is used again soon.
_WORTH_TRIMMING = 2**23


class RoomHolder(Protocol):
    """One client's connection, as far as others may need its room."""

    @property
    def is_owed_replies(self) -> bool:
        """Whether it has sent a whole request that is not answered yet."""
        ...

    def give_way(self) -> None:
        """Refuse the request that has not come whole, and end."""
        ...

    def give_place(self) -> None:
        """End, for a new connection."""
        ...


class Inflight:
    """Bytes of heads and bodies that are unfinished, or whole and not yet answered."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.silent: dict[RoomHolder, float] = {}
        """Since when, by `time.monotonic`, connections are open that have not sent a whole head yet; oldest first."""
        self.unfinished: dict[RoomHolder, None] = {}
        """Connections whose latest request has begun and not come whole, oldest first."""
        self._peak = 0

    def has_room(self, wanting: RoomHolder) -> bool:
        """Make all that is held fit, by refusing the oldest unfinished requests. False if `wanting` is next."""
        self._peak = max(self._peak, self.held)
        while self.held > self.limit:
            oldest = next(iter(self.unfinished), wanting)
            if oldest is wanting:
                return False
            oldest.give_way()
        return True

    def forget(self, connection: RoomHolder) -> None:
        """The connection ends."""
        self.silent.pop(connection, None)
        self.unfinished.pop(connection, None)

    def is_over(self) -> bool:
        """Whether much was held a moment ago, and most of it no longer is. Called about once a second; true some times
        in a row, because connections end a moment after their requests."""
        self._peak = max(self._peak, self.held)
        if self._peak < _WORTH_TRIMMING or self.held > self._peak // 4:
            return False
        self._peak //= 2
        return True


def return_free_memory() -> None:
    """Give memory that the allocator keeps for later back to the system; a no-op where the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
