"""Rows from Redis, where `msd publish` puts them, cached until Redis reports a change.

Knows keys, and which cached rows are current. Does not know what a row contains, nor how a request without rows is
handled.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import Bundle
from msd.contract.rows import ROW_SIDES, RowCodec, Rows, RowSide
from service.errors import StoreError
from service.redis.keys import POINTER, key_prefix, rows_key
from service.redis.redis_link import Answers, State
from service.redis.topology import are_among, ask_one, get_many, open_nodes
from service.rows.arena import LET_GO, Arena
from service.rows.store import CoreRows, tell_rows
from service.telemetry.metrics import Metrics


class _Fetched(NamedTuple):
    """Rows from one node, and their indices [n] among the requested IDs."""

    places: list[int]
    rows: Rows


class RedisStore:
    """Reads rows over one connection per node, and caches up to `cache_bytes`.

    While Redis is unreachable, the last known rows are served, marked as stale.
    """

    name = "redis"

    def __init__(self, bundle: Bundle, url: str, timeout_s: float, cache_bytes: int, metrics: Metrics) -> None:
        self._bundle_id = bundle.bundle_id
        self._metrics = metrics
        self._sides: Mapping[RowSide, _Side] = {
            side: _Side(RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id, cache_bytes // 2)
            for side in ROW_SIDES
        }
        self._by_prefix = {side.prefix: side for side in self._sides.values()}
        self._prefix_length = len(self._sides["user"].prefix)
        self._has_arenas = bool(cache_bytes)
        prefixes = list(self._by_prefix) if cache_bytes else []
        self._nodes = open_nodes(url, timeout_s, prefixes, self._forget)
        metrics.caching_stores.add(self)

    @property
    def state(self) -> State:
        """The state of Redis, the worst of a cluster's nodes. For any thread."""
        return self._nodes.state

    def cached_rows(self, side: RowSide) -> int:
        """Return the number of cached rows of a side, or of absences."""
        return len(self._sides[side].arena)

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Rows:
        """Return the rows of `ids`; uncached ones are requested in one round trip.

        Raises StoreError after the time limit, or at the deadline (of `time.perf_counter`), with the cached rows.
        """
        own = self._sides[side]
        held = own.arena.look_up(ids)
        is_fresh = (held.places >= 0) & are_among(held.epochs, self._nodes.sure())
        # Copied before the wait, because other rows may take their places meanwhile.
        known = own.arena.rows(held.places[is_fresh])
        if is_fresh.all():
            return self._counted(side, known, is_fresh)
        wanted = list({ids[place]: 0 for place in np.flatnonzero(~is_fresh).tolist()})
        answers = await self._fetch(side, wanted, deadline)
        parts, rows_of = [known], dict.fromkeys(wanted, -1)
        start = len(known.found)
        for fetched in answers.outcomes:
            parts.append(fetched.rows)
            rows_of |= {wanted[place]: start + row for row, place in enumerate(fetched.places)}
            start += len(fetched.places)
        order = np.cumsum(is_fresh) - 1
        order[~is_fresh] = [rows_of[ids[place]] for place in np.flatnonzero(~is_fresh).tolist()]
        if answers.error is not None:
            answers.error.rows = self._counted(side, self._with_stale(own, ids, parts, order), is_fresh)
            raise answers.error
        return self._counted(side, _merge(parts, order), is_fresh)

    def core_rows(self) -> CoreRows | None:
        """The arenas, if there are any."""
        if not self._has_arenas:
            return None
        users, items = (self._sides[side].arena.core() for side in ROW_SIDES)
        return CoreRows(users, items, self._nodes.sure)

    async def check(self) -> None:
        """Raise StoreError if Redis does not answer, or lacks rows of this bundle."""
        # The digest is missing while rows are copied again; the bundle that the pointer names was complete before.
        digest = rows_key(self._bundle_id).encode()
        if isinstance(await ask_one(self._nodes, digest, b"GET", digest), bytes):
            return
        value = await ask_one(self._nodes, POINTER.encode(), b"GET", POINTER.encode())
        found = value.decode("utf-8", "replace") if isinstance(value, bytes) else None
        if found != self._bundle_id:
            holds = "no bundle" if found is None else f"bundle {found}"
            raise StoreError(
                f"Redis at {self._nodes.address} holds {holds}, but this service needs {self._bundle_id}:"
                " run `msd publish BUNDLE --redis URL` with this bundle"
            )

    def exported(self, ids: Sequence[str]) -> None:
        """Return None: rows of the live catalogue are among the others in Redis, which reports changes."""

    def replace(self, ids: Sequence[str], rows: Rows) -> None: ...

    def restore(self, ids: Sequence[str]) -> None: ...

    async def close(self) -> None:
        await self._nodes.close()
        for side in self._sides.values():
            while side.arena.let_go(LET_GO):
                await asyncio.sleep(0)
        self._metrics.caching_stores.discard(self)

    async def _fetch(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Answers[_Fetched]:
        """Read rows into the arena as they arrive."""
        own = self._sides[side]
        keys = [own.prefix + item_id.encode() for item_id in ids]

        def accept(places: list[int], values: list[bytes | None], epoch: int) -> _Fetched:
            rows = own.codec.unpack(values)
            own.arena.put([ids[place] for place in places], rows, epoch)
            return _Fetched(places, rows)

        return await get_many(self._nodes, keys, accept, deadline)

    def _forget(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            # The prefixes of both sides have the same length.
            side_of = self._by_prefix.get(key[: self._prefix_length])
            if side_of is not None:
                side_of.arena.drop(key[self._prefix_length :].decode("utf-8", "replace"))

    def _with_stale(self, own: "_Side", ids: Sequence[str], parts: list[Rows], order: NDArray[np.int64]) -> Rows:
        """Return the rows in their places; without one (−1), any cached row of the ID, however old, marked as stale."""
        lacks = order < 0
        places = own.arena.look_up(ids).places
        is_held = lacks & (places >= 0)
        start = sum(len(part.found) for part in parts)
        held = own.arena.rows(places[is_held])
        order[is_held] = start + np.arange(len(held.found))
        order[lacks & ~is_held] = start + len(held.found)
        rows = _merge([*parts, held, own.codec.unpack([None])], order)
        stale: NDArray[np.bool_] = rows.found & lacks
        if stale.any():
            self._metrics.stale_ages.observe(time.perf_counter() - self._nodes.proved_at)
        return rows._replace(stale=stale)

    def _counted(self, side: RowSide, rows: Rows, is_fresh: NDArray[np.bool_]) -> Rows:
        found = int(rows.found.sum())
        fresh = int((rows.found & is_fresh).sum())
        stale = 0 if rows.stale is None else int(rows.stale.sum())
        tell_rows(self._metrics, side, rows, {"arena": fresh, "stale": stale, "redis": found - fresh - stale})
        return rows


class _Side:
    """The store's state of one side."""

    def __init__(self, codec: RowCodec, bundle_id: str, cache_bytes: int) -> None:
        self.codec = codec
        self.prefix = key_prefix(bundle_id, codec.side).encode()
        self.arena = Arena(codec, cache_bytes)


def _merge(parts: Sequence[Rows], order: NDArray[np.int64]) -> Rows:
    """Concatenate the rows of all parts, and select indices [n]."""
    plain = f"V{parts[0].records.dtype.itemsize}"  # as plain bytes, which are taken much faster than fields
    records = np.concatenate([part.records.view(plain) for part in parts])[order].view(parts[0].records.dtype)
    histories = [history for part in parts for history in part.histories]
    return Rows(
        records,
        np.concatenate([part.found for part in parts])[order],
        tuple(histories[place] for place in order.tolist()) if histories else (),
        sum(part.damaged for part in parts),
    )
