"""How far the stream of events reaches: counts are complete for as long as it flowed, and only for so long.

Knows times (unix s) alone, neither events nor ids.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple, Self

_TIMES = struct.Struct("<dd")


class Stream(NamedTuple):
    """Events from `since` to `until` are known, with no silence between them that is longer than what is tolerated."""

    since: float
    until: float

    @classmethod
    def unpack(cls, packed: bytes | None) -> Self | None:
        """What `pack` packed; None of None, and of bytes of another length."""
        return None if packed is None or len(packed) != _TIMES.size else cls(*_TIMES.unpack(packed))

    def pack(self) -> bytes:
        """As bytes."""
        return _TIMES.pack(*self)

    def complete_at(self, at: float, lag_s: float) -> float:
        """Up to when counts are complete for one who asks about `at`: a silence within `lag_s` counts as one in which
        nothing happened; after a longer one, nothing is known since the last event."""
        return at if at - self.until <= lag_s else self.until

    def covers(self, as_of: float, lag_s: float) -> bool:
        """Whether rows that are complete up to `as_of` are followed by the stream without a gap."""
        return as_of >= self.since - lag_s


def stretches(times: Sequence[float], lag_s: float) -> list[Stream]:
    """The streams that events of some times are by themselves: one, unless they are far apart."""
    found: list[Stream] = []
    for at in sorted(times):
        if found and at <= found[-1].until + lag_s:
            found[-1] = Stream(found[-1].since, at)
        else:
            found.append(Stream(at, at))
    return found


def after(stream: Stream | None, stretch: Stream, lag_s: float) -> Stream:
    """The stream with one more stretch in it. What comes after a long silence begins it anew."""
    if stream is None or stretch.since > stream.until + lag_s:
        return stretch
    return Stream(stream.since, max(stream.until, stretch.until))
