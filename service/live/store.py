"""Events, the stream of them, and the interface of state stores. Counts are complete for as long as the stream flowed.

Times are Unix seconds. A batch carries everything that a store needs: the store knows IDs and packed states, no
bundle's rows.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.contract.rows import LATEST_S, Rows, RowSide
from msd.contract.state import StateRule
from native import core
from native.live_state import begin, take

_TIMES = struct.Struct("<dd")
_SPARE_HALF_LIVES, _LEAST_KEPT_S = 7, 30 * 86_400.0


class Stream(NamedTuple):
    """Events from `since` to `until` are known, without a longer gap than tolerated."""

    since: float
    until: float

    @classmethod
    def unpack(cls, packed: bytes | None) -> Self | None:
        """Unpack a packed stream; None for None, and for invalid bytes."""
        if packed is None or len(packed) != _TIMES.size:
            return None
        stream = cls(*_TIMES.unpack(packed))
        return stream if stream.since <= stream.until < LATEST_S else None

    def pack(self) -> bytes:
        return _TIMES.pack(*self)

    def complete_at(self, at: float, lag_s: float) -> float:
        """Return the time up to which counts are complete for a request at `at`: a gap within `lag_s` means that
        nothing happened; after a longer one, nothing is known since the last event."""
        return at if at - self.until <= lag_s else self.until

    def covers(self, as_of: float, lag_s: float) -> bool:
        """Return whether the stream follows rows that are complete up to `as_of` without a gap."""
        return as_of >= self.since - lag_s


def stretches(times: Sequence[float], lag_s: float) -> list[Stream]:
    """Return the streams that events at these times form: one, unless they are far apart."""
    found: list[Stream] = []
    for at in sorted(times):
        if found and at <= found[-1].until + lag_s:
            found[-1] = Stream(found[-1].since, at)
        else:
            found.append(Stream(at, at))
    return found


def after(stream: Stream | None, stretch: Stream, lag_s: float) -> Stream:
    """Return the stream extended by one stretch. After a long gap it starts again."""
    if stream is None or stretch.since > stream.until + lag_s:
        return stretch
    return Stream(stream.since, max(stream.until, stretch.until))


class LiveEvent(NamedTuple):
    """One event with its final time (Unix s). That of an anonymous user changes its item's state alone."""

    event_id: str
    is_click: bool
    user_id: str
    item_id: str
    at: float

    @property
    def key(self) -> bytes:
        """Idempotency key: of one type, each ID is counted once."""
        return (b"c" if self.is_click else b"i") + self.event_id.encode()

    def owner(self, side: RowSide) -> str:
        """Return the ID whose state it changes."""
        return self.user_id if side == "user" else self.item_id

    def fold_into(self, live: "core.LiveState", side: RowSide, rule: StateRule) -> bool:
        """Change its owner's state; return False if the row includes it. Only users remember the item."""
        return take(rule, live, self.at, self.is_click, self.item_id if side == "user" else None)


class LiveBatch(NamedTuple):
    """Events, the existing rows of their users and items as packed states, and the rule of each side."""

    events: Sequence[LiveEvent]
    rows: Mapping[RowSide, Mapping[str, bytes]]
    rules: Mapping[RowSide, StateRule]
    lag_s: float

    @property
    def stretches(self) -> list[Stream]:
        """Return the stretches that the events add to the stream."""
        return stretches([event.at for event in self.events], self.lag_s)


class BatchOutcome(NamedTuple):
    """Outcome of a batch: events counted, duplicates; and of those counted, how many arrived after a later one of their
    user or item, and how many the rows already included. `damaged`: states that were replaced, because they were
    unreadable."""

    accepted: int
    duplicates: int
    late: int
    in_row: int
    newest_at: float
    damaged: int = 0


def rows_of(ids: Sequence[str], rows: Rows) -> dict[str, bytes]:
    """Return the packed states of the rows that were found."""
    records = rows.records
    columns = (records[name].tolist() for name in ("impressions", "clicks", "as_of"))
    histories = rows.histories or ((),) * len(ids)
    return {
        entity_id: begin(impressions, clicks, as_of, history).pack()
        for entity_id, found, impressions, clicks, as_of, history in zip(
            ids, rows.found.tolist(), *columns, histories, strict=True
        )
        if found
    }


def kept_s(counts: float, rule: StateRule) -> float:
    """Return the seconds for which a state is kept after its last event: until less than 1/128 of an impression or
    click is left of its counts, and a month at least, for its history does not fade."""
    half_lives = _SPARE_HALF_LIVES + (math.log2(counts) if counts > 0 else -math.inf)
    return max(_LEAST_KEPT_S, rule.half_life_s * half_lives)


class LiveError(MsdError):
    """States cannot be read, or events cannot be stored; the message says why."""


class PackedStates(NamedTuple):
    """Packed states of n requested ids, None if there is none; the stream, None before any event; and for which ids
    (`known` [n]) it is known whether there is a state, None if for all."""

    packed: Sequence[bytes | None]
    stream: Stream | None
    known: NDArray[np.bool_] | None = None


class LiveStore(Protocol):
    """Live states by id. Every failure is a LiveError."""

    is_local: bool
    """Return whether `get` never waits."""

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> PackedStates:
        """Return the states of `ids`, by the deadline (of `time.perf_counter`), with all changes of completed `add`
        calls."""
        ...

    def cached(self, side: RowSide, ids: Sequence[str]) -> PackedStates | None:
        """As `get`, for any thread, without waiting; None if that is impossible. `known` is None."""
        ...

    async def add(self, batch: LiveBatch) -> BatchOutcome:
        """Fold a batch; return once it is durable. A batch that failed can be given again."""
        ...

    async def close(self) -> None: ...
