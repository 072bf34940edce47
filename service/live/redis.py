"""Live states in Redis: folded here, written by compare-and-set, cached until Redis reports a change.

Events use a separate connection, so that no request waits behind them. Knows keys, and which cached states are current.
"""

import asyncio
import struct
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from weakref import WeakValueDictionary

import hiredis
import numpy as np
from numpy.typing import NDArray

from msd.contract.rows import LATEST_S, MAX_COUNT, ROW_SIDES, RowSide
from service import limits
from service.live.live_state import MAX_STATE_BYTES, unpack_counts
from service.live.redis_fold import DUPLICATE, IN_ROW, LATE, STREAM, WRITE, Folded, Part, Script, digest_of
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent, PackedStates, Stream
from service.lru_cache import LruCache
from service.redis.keys import LIVE_STREAM, event_key, live_prefix
from service.redis.redis_line import pack
from service.redis.redis_link import Command
from service.redis.topology import Nodes, are_among, get_many, open_nodes
from service.settings import Settings
from service.telemetry.metrics import Metrics

_WRITE_TIMEOUT_S = 5.0
# The stream is re-read at this interval: it moves with every batch, also of other services, and need not be exact.
_STREAM_S = 1.0
_STREAM_KEY = LIVE_STREAM.encode()
_PERIOD = struct.Struct("<q")
# Events that are folded at once: the event loop is held for a millisecond.
_TOGETHER = 50
# Memory overhead of an entry beside the bytes of key and state, approximately.
_OVERHEAD = 250
_NOT_HELD = None, -1


class RedisStates:
    """Reads uncached states with one command per node; writes with one script per ID, in which each event counts once.

    A batch whose connection is lost may be partly applied: sending it again has the same result.
    """

    is_local = False

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        assert settings.redis_url is not None, "settings with a Redis store have its address"
        url, cache_bytes = settings.redis_url.get_secret_value(), settings.cache_mb * 2**20 // 4
        self._horizon_s = limits.EVENT_HORIZON_S
        self._metrics = metrics
        self._seen_s = b"%d" % max(1, 2 * self._horizon_s)
        # The absence of a state is cached too; with each entry the epoch of its read.
        self._cache: LruCache[bytes, tuple[bytes | None, int]] = LruCache(
            cache_bytes, lambda key, entry: _OVERHEAD + len(key) + len(entry[0] or b"")
        )
        self._stream: Stream | None = None
        self._stream_until = 0.0
        prefixes = [live_prefix(side).encode() for side in ROW_SIDES] if cache_bytes else []
        timeout_s = settings.store_timeout_ms / 1000
        self._nodes = open_nodes(url, timeout_s, prefixes, self._cache.drop)
        self._writers = open_nodes(url, _WRITE_TIMEOUT_S)
        # Batches of this service take turns at an ID, because only one could write its state.
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> PackedStates:
        """Return cached current states, and the rest in one round trip; if that fails, the last known ones."""
        keys, found, epochs, known = self._look_up(side, ids)
        lacks = np.flatnonzero(~known).tolist()
        wanted = dict.fromkeys(keys[place] for place in lacks)
        if self._stream is None or time.monotonic() > self._stream_until:
            wanted[_STREAM_KEY] = None
        if wanted:
            values = await self._read(list(wanted), deadline)
            for place in lacks:
                if keys[place] in values:
                    found[place], known[place] = values[keys[place]], True
        return PackedStates(found, self._stream, known | (epochs >= 0))

    def cached(self, side: RowSide, ids: Sequence[str]) -> PackedStates | None:
        """Return cached states, if all are current and the stream need not be re-read."""
        # In the reverse order of `_hold_stream`.
        is_recent, stream = time.monotonic() <= self._stream_until, self._stream
        if stream is None or not is_recent:
            return None
        _, found, _, known = self._look_up(side, ids)
        return PackedStates(found, stream) if known.all() else None

    async def add(self, batch: LiveBatch) -> BatchOutcome:
        """Fold some events after the others, then extend the stream."""
        parts = [batch.events[start : start + _TOGETHER] for start in range(0, len(batch.events), _TOGETHER)]
        outcomes = [await self._fold(batch._replace(events=part)) for part in parts]
        stretches = [stretch.pack() for stretch in batch.stretches]
        (packed,) = await self._run(STREAM, [([_STREAM_KEY], [repr(batch.lag_s).encode(), *stretches])])
        stream = self._hold_stream(packed if isinstance(packed, bytes) else None)
        accepted, duplicates, late, in_row, damaged = (sum(column) for column in zip(*outcomes, strict=True))
        return BatchOutcome(accepted, duplicates, late, in_row, stream.until if stream else 0.0, damaged)

    async def _fold(self, batch: LiveBatch) -> tuple[int, int, int, int, int]:
        """Count events ID by ID; return how many are accepted, duplicates, late, and in the row already, and how many
        states were damaged."""
        by_owner: dict[tuple[RowSide, str, int], list[int]] = defaultdict(list)
        for place, period in (await self._claimed(batch.events)).items():
            if batch.events[place].user_id:
                by_owner["user", batch.events[place].user_id, period].append(place)
            by_owner["item", batch.events[place].item_id, period].append(place)
        parts = [Part.of(batch, *owner, places) for owner, places in by_owner.items()]
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S), AsyncExitStack() as stack:
                # In one order, so that batches do not wait for each other in a circle.
                for key in sorted({part.key for part in parts}):
                    await stack.enter_async_context(self._turns.setdefault(key, asyncio.Lock()))
                folded = await self._folded(parts)
        except TimeoutError:
            limit = f"{_WRITE_TIMEOUT_S:g} s"
            raise LiveError(f"Redis at {self._writers.address}: events were not written within {limit}") from None
        results = {side: [DUPLICATE] * len(batch.events) for side in ROW_SIDES}
        for part, own in zip(parts, folded, strict=True):
            for place, result in zip(part.places, own.results, strict=True):
                results[part.side][place] = result
        # One side decides, so that only one of several concurrent callers accepts. It is the item's, which is written
        # last: it is new to a caller that completes an interrupted batch.
        duplicates = results["item"].count(DUPLICATE)
        late, in_row = (sum(what in pair for pair in zip(*results.values(), strict=True)) for what in (LATE, IN_ROW))
        return len(batch.events) - duplicates, duplicates, late, in_row, sum(own.is_damaged for own in folded)

    async def _folded(self, parts: Sequence[Part]) -> list[Folded]:
        """Fold parts and write their states; again those whose state or events seen another service has changed
        meanwhile."""
        # One byte more than the longest shows that a state is longer, whatever Redis holds there.
        reads = [Command(part.key, pack(b"GETRANGE", part.key, b"0", b"%d" % MAX_STATE_BYTES)) for part in parts]
        held = _checked(await _ask(self._writers, reads), self._writers.address)
        folded = [part.folded(found or b"") for part, found in zip(parts, held, strict=True)]
        pending = list(range(len(parts)))
        while pending:
            replies = await self._run(WRITE, [folded[place].call(parts[place], self._seen_s) for place in pending])
            refused = {place: reply for place, reply in zip(pending, replies, strict=True) if reply != 1}
            for place, reply in refused.items():
                if not isinstance(reply, list) or not reply or not all(isinstance(found, bytes) for found in reply):
                    raise LiveError(f"Redis at {self._writers.address}: unexpected reply from the script")
                folded[place] = parts[place].folded(reply[0], folded[place].seen.union(reply[1:]))
            pending = [place for place in refused if folded[place].new]
        return folded

    async def close(self) -> None:
        await self._nodes.close()
        await self._writers.close()

    def _look_up(
        self, side: RowSide, ids: Sequence[str]
    ) -> tuple[list[bytes], list[bytes | None], NDArray[np.int64], NDArray[np.bool_]]:
        """Return the keys of ids [n]; their cached states, the epochs in which these were read, and whether each is
        current."""
        prefix = live_prefix(side).encode()
        keys = [b"%b%b}" % (prefix, entity_id.encode()) for entity_id in ids]
        entries = [entry or _NOT_HELD for entry in self._cache.get(keys)]
        epochs = np.array([epoch for _, epoch in entries], np.int64)
        return keys, [state for state, _ in entries], epochs, (epochs >= 0) & are_among(epochs, self._nodes.sure())

    async def _read(self, keys: list[bytes], deadline: float | None) -> dict[bytes, bytes | None]:
        """Return the values that could be read. Raises LiveError if none could and none is cached."""

        def accept(places: list[int], found: list[bytes | None], epoch: int) -> dict[bytes, bytes | None]:
            named = [keys[place] for place in places]
            values = dict(zip(named, found, strict=True))
            # Bytes in Redis carry no checksum: a state that no fold can produce is ignored.
            counts = unpack_counts(found)
            is_state = counts.found & (np.maximum(counts.impressions, counts.clicks) < MAX_COUNT)
            is_state &= counts.as_of < LATEST_S
            no_states = {key: None for key, ok in zip(named, is_state, strict=True) if not ok and key != _STREAM_KEY}
            self._metrics.damaged_states.inc(sum(values[key] is not None for key in no_states))
            values |= no_states
            # On arrival, because an invalidation that follows is about something later.
            if _STREAM_KEY in values:
                self._hold_stream(values[_STREAM_KEY])
            self._cache.put({key: (value, epoch) for key, value in values.items() if key != _STREAM_KEY})
            return values

        answers = await get_many(self._nodes, keys, accept, deadline)
        if answers.error is not None and not answers.outcomes and not len(self._cache):
            raise LiveError(str(answers.error)) from answers.error
        return {key: value for values in answers.outcomes for key, value in values.items()}

    def _hold_stream(self, packed: bytes | None) -> Stream | None:
        self._stream, self._stream_until = Stream.unpack(packed), time.monotonic() + _STREAM_S
        return self._stream

    async def _claimed(self, events: Sequence[LiveEvent]) -> dict[int, int]:
        """Return, by index, the period in which an event was first seen, for events whose ID no other user or item had
        before.

        An ID is claimed before anything is folded, so that an interrupted event can be sent again, whatever this
        machine's clock says then.
        """
        now = _PERIOD.pack(int(time.time() // self._horizon_s))
        claims = []
        for event in events:
            key = event_key(digest_of(event.key)).encode()
            claims.append(Command(key, pack(b"SET", key, now + _whose(event), b"NX", b"EX", self._seen_s)))
            claims.append(Command(key, pack(b"GET", key)))
        replies = _checked(await _ask(self._writers, claims), self._writers.address)
        claimed = {}
        for place, (event, held) in enumerate(zip(events, replies[1::2], strict=True)):
            held = held if isinstance(held, bytes) and len(held) > _PERIOD.size else now + _whose(event)  # just ended
            if held[_PERIOD.size :] == _whose(event):
                claimed[place] = _PERIOD.unpack_from(held)[0]
        return claimed

    async def _run(self, script: Script, calls: Sequence[tuple[list[bytes], list[bytes]]]) -> list[Any]:
        """Run a script, and return its replies; load it first on a server that lacks it. Raises LiveError."""
        replies = await _ask(self._writers, [_command(b"EVALSHA", script.sha, *call) for call in calls])
        unknown = [
            place
            for place, reply in enumerate(replies)
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
        ]
        if unknown:
            again = await _ask(self._writers, [_command(b"EVAL", script.text, *calls[place]) for place in unknown])
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return _checked(replies, self._writers.address)


def _checked(replies: list[Any], address: str) -> list[Any]:
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise LiveError(f"Redis at {address}: {reply}")
    return replies


async def _ask(nodes: Nodes, commands: Sequence[Command]) -> list[Any]:
    """Return the replies, errors included, in the order of the commands. Raises LiveError if one is missing."""
    replies: list[Any] = [None] * len(commands)

    def accept(at: Sequence[int], found: Sequence[Any], epoch: int) -> None:
        for place, reply in zip(at, found, strict=True):
            replies[place] = reply

    answers = await nodes.ask(commands, accept)
    if answers.error is not None:
        raise LiveError(str(answers.error)) from answers.error
    return replies


def _command(name: bytes, script: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Command:
    return Command(keys[0], pack(name, script, b"%d" % len(keys), *keys, *arguments))


def _whose(event: LiveEvent) -> bytes:
    user, item = event.user_id.encode(), event.item_id.encode()
    return digest_of(b"%d:%b%b" % (len(user), user, item))
