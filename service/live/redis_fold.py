"""The change of one ID's state by a batch, and the scripts that write it to Redis: only if no other service has changed
it since it was read. An event counts once.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Self

from msd.contract.rows import LATEST_S, MAX_COUNT, RowSide
from msd.contract.state import StateRule
from native import core
from native.live_state import unpack_state
from service.live.live_state import MAX_STATE_BYTES, head_of, resumed
from service.live.store import LiveBatch, LiveEvent, kept_s
from service.redis.keys import live_key, seen_key

NEW, DUPLICATE, IN_ROW, LATE = "new", "duplicate", "in_row", "late"
"""Results of an event."""
_DIGEST_BYTES = 12
# Redis takes no end in more than some millions of years.
_LONGEST_KEPT_S = 1e12


class Folded(NamedTuple):
    """The outcome of a part: the hash of the state that it started from; the state to write, empty for none, and how
    long it is kept; the digests of events that were seen before, and of others; the result of each event."""

    held_sha1: bytes
    state: bytes
    kept_s: float
    seen: frozenset[bytes]
    new: Sequence[bytes]
    results: Sequence[str]
    is_damaged: bool

    def call(self, part: "Part", seen_s: bytes) -> tuple[list[bytes], list[bytes]]:
        """Return keys and arguments of WRITE."""
        settled = self.held_sha1, b"%d" % MAX_STATE_BYTES, self.state, b"%.0f" % self.kept_s, seen_s
        return [part.key, *part.seen_keys], [*settled, *self.new]


class Part(NamedTuple):
    """The events of one ID in a batch: events by their places in it, digests of their keys, the packed row."""

    side: RowSide
    key: bytes
    seen_keys: Sequence[bytes]
    row: bytes | None
    rule: StateRule
    places: Sequence[int]
    events: Sequence[LiveEvent]
    digests: Sequence[bytes]

    @classmethod
    def of(cls, batch: LiveBatch, side: RowSide, entity_id: str, period: int, places: Sequence[int]) -> Self:
        events = [batch.events[place] for place in places]
        return cls(
            side,
            live_key(side, entity_id).encode(),
            # Another service's clock may be ahead.
            [seen_key(side, entity_id, number).encode() for number in (period, period - 1, period + 1)],
            batch.rows[side].get(entity_id),
            batch.rules[side],
            places,
            events,
            [digest_of(event.key) for event in events],
        )

    def folded(self, packed: bytes, seen: frozenset[bytes] = frozenset()) -> Folded:
        """Fold the events into a packed state, empty for none; but for those with digests that were seen before."""
        live, is_changed = _unpacked(packed), False
        state, is_damaged = resumed(live, self.row), bool(packed) and live is None
        new: dict[bytes, None] = {}
        results = []
        for event, digest in zip(self.events, self.digests, strict=True):
            if digest in seen or digest in new:
                results.append(DUPLICATE)
                continue
            new[digest] = None
            is_late = event.at < state.as_of
            is_counted = event.fold_into(state, self.side, self.rule)
            is_changed |= is_counted
            results.append(IN_ROW if not is_counted else LATE if is_late else NEW)
        known = packed if len(packed) <= MAX_STATE_BYTES else b""
        sha1 = hashlib.sha1(known, usedforsecurity=False).hexdigest().encode()
        kept = min(kept_s(max(state.impressions, state.clicks), self.rule), _LONGEST_KEPT_S)
        written = state.pack() if is_changed else b""
        return Folded(sha1, written, kept, seen, list(new), results, is_damaged)


def _unpacked(packed: bytes) -> "core.LiveState | None":
    """Return a packed state; None if no fold can have made it: bytes in Redis carry no checksum."""
    head = head_of(packed)
    is_bounded = head is not None and head.as_of < LATEST_S and max(head.impressions, head.clicks) < MAX_COUNT
    return unpack_state(packed) if is_bounded else None


def digest_of(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_DIGEST_BYTES).digest()


_WRITE = rb"""
-- KEYS: the state; the events seen in this horizon, in the one before, in the one after.
-- ARGV: SHA-1 of the state that was read, and its most bytes: longer ones are not even copied; the state to write, or
-- nothing, and seconds to keep it; seconds to keep events seen; digests of events that are new. Returns 1; but if the
-- state is another, or an event was seen, nothing is written, and it returns the state and digests of events seen.
local held = redis.call('STRLEN', KEYS[1]) <= tonumber(ARGV[2]) and redis.call('GET', KEYS[1]) or ''
local found = {held}
for place = 6, #ARGV do
  for seen = 2, 4 do
    if redis.call('SISMEMBER', KEYS[seen], ARGV[place]) == 1 then found[#found + 1] = ARGV[place] end
  end
end
if #found > 1 or redis.sha1hex(held) ~= ARGV[1] then return found end
redis.call('SADD', KEYS[2], unpack(ARGV, 6))
redis.call('EXPIRE', KEYS[2], ARGV[5])
if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4]) end
return 1
"""

_STREAM = rb"""
-- KEYS: the stream. ARGV: the silence that is tolerated (s), then packed stretches. Returns the packed stream.
local lag, packed = tonumber(ARGV[1])
local since, until_
if redis.call('STRLEN', KEYS[1]) == 16 then since, until_ = struct.unpack('<dd', redis.call('GET', KEYS[1])) end
if since and not (since <= until_ and until_ < 1e11) then since, until_ = nil, nil end
for place = 2, #ARGV do
  local from, to = struct.unpack('<dd', ARGV[place])
  if not until_ or from > until_ + lag then
    since, until_ = from, to
  else
    until_ = math.max(until_, to)
  end
end
packed = struct.pack('<dd', since, until_)
redis.call('SET', KEYS[1], packed)
return packed
"""


class Script(NamedTuple):
    """A script, and its SHA-1."""

    text: bytes
    sha: bytes

    @classmethod
    def of(cls, text: bytes) -> Self:
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


WRITE, STREAM = Script.of(_WRITE), Script.of(_STREAM)
