"""Rows from Redis, where `msd publish` puts them, kept near until Redis says that they changed.

Knows keys, and which rows may be taken for what Redis holds. Does not know what a row holds, nor what becomes of a
request whose rows are not to be had.
"""

import time
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import Bundle
from msd.contract.redis_keys import POINTER, key_prefix
from msd.contract.rows import RowCodec, Rows, RowSide
from service.metrics import Metrics
from service.stores.arena import Arena
from service.stores.redis_link import RedisLink, pack
from service.stores.store import StoreError, tell_rows

# A row that is held counts as Redis's own for so long after it was last sure that no word of a change is on its way.
_SURE_S = 0.8


class RedisStore:
    """Reads rows over one connection; those that it has read are served from memory, `cache_bytes` of it at most.

    While Redis cannot be asked, rows go on being served as they were last known, marked as stale.
    """

    name = "redis"

    def __init__(self, bundle: Bundle, url: str, timeout_s: float, cache_bytes: int, metrics: Metrics) -> None:
        self._bundle_id = bundle.bundle_id
        self._metrics = metrics
        self._sides: Mapping[RowSide, _Side] = {
            side: _Side(RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id, cache_bytes // 2)
            for side in ("user", "item")
        }
        self._by_prefix = {side.prefix: side for side in self._sides.values()}
        self._prefix_length = len(self._sides["user"].prefix)
        self._link = RedisLink(url, timeout_s, list(self._by_prefix) if cache_bytes else [], self._forget)

    async def get(self, side: RowSide, ids: Sequence[str]) -> Rows:
        """The rows of `ids`, those that are not held by one MGET. Raises StoreError after the time limit at the latest,
        with the rows that are held."""
        one = self._sides[side]
        sure = time.monotonic() - self._link.proved_at < _SURE_S
        held = one.arena.look_up(ids)
        is_fresh = (held.places >= 0) & (held.epochs == self._link.epoch) & sure
        # Copied before the wait, in which other rows may take their places.
        known = one.arena.rows(held.places[is_fresh])
        if is_fresh.all():
            return self._told(side, known, is_fresh)
        wanted = {ids[place]: 0 for place in np.flatnonzero(~is_fresh).tolist()}
        try:
            fetched = await self._fetch(one, list(wanted))
        except StoreError as error:
            error.rows = self._stale(side, ids, is_fresh)
            raise
        rows_of = {item_id: len(known.found) + row for row, item_id in enumerate(wanted)}
        order = np.cumsum(is_fresh) - 1
        order[~is_fresh] = [rows_of[ids[place]] for place in np.flatnonzero(~is_fresh).tolist()]
        return self._told(side, _merge(known, fetched, order), is_fresh)

    async def check(self) -> None:
        """Raises StoreError when Redis does not answer, or when `msd publish` last pointed it to another bundle."""
        value = cast("bytes | None", await self._link.ask(pack(b"GET", POINTER.encode())))
        found = None if value is None else value.decode("utf-8", "replace")
        if found != self._bundle_id:
            holds = "no bundle" if found is None else f"bundle {found}"
            raise StoreError(
                f"Redis at {self._link.address} holds {holds}, this service needs {self._bundle_id}:"
                " run `msd publish BUNDLE --redis URL` with this bundle"
            )

    async def close(self) -> None:
        """Closes the connection."""
        await self._link.close()

    async def _fetch(self, side: "_Side", ids: list[str]) -> Rows:
        def accept(values: object) -> Rows:
            if not isinstance(values, list) or len(values) != len(ids):
                raise StoreError(
                    f"Redis at {self._link.address}: what it answers to MGET is not a list of {len(ids)} values"
                )
            try:
                rows = side.codec.unpack(values)
            except TypeError:
                raise StoreError(
                    f"Redis at {self._link.address}: what it answers to MGET holds something else than values"
                ) from None
            side.arena.put(ids, rows, self._link.epoch)
            return rows

        return cast(Rows, await self._link.ask(pack(b"MGET", *[side.prefix + one.encode() for one in ids]), accept))

    def _forget(self, keys: Sequence[bytes] | None) -> None:
        if keys is None:
            for side in self._by_prefix.values():
                side.arena.clear()
            return
        for key in keys:
            # The prefixes of both sides are of one length.
            side_of = self._by_prefix.get(key[: self._prefix_length])
            if side_of is not None:
                side_of.arena.drop(key[self._prefix_length :].decode("utf-8", "replace"))

    def _stale(self, side: RowSide, ids: Sequence[str], is_fresh: NDArray[np.bool_]) -> Rows:
        """What is held of the ids, however old; those that were not fresh are marked."""
        one = self._sides[side]
        places = one.arena.look_up(ids).places
        is_held = places >= 0
        known = one.arena.rows(places[is_held])
        order = np.where(is_held, np.cumsum(is_held) - 1, len(known.found))
        rows = _merge(known, one.codec.unpack([None]), order)
        stale = rows.found & ~is_fresh
        if stale.any():
            self._metrics.stale_ages.observe(time.monotonic() - self._link.last_proved_at)
        return self._told(side, rows._replace(stale=stale), is_fresh)

    def _told(self, side: RowSide, rows: Rows, is_fresh: NDArray[np.bool_]) -> Rows:
        """Counts the rows by where they were found."""
        found = int(rows.found.sum())
        fresh = int((rows.found & is_fresh).sum())
        stale = 0 if rows.stale is None else int(rows.stale.sum())
        tell_rows(self._metrics, side, rows, {"arena": fresh, "stale": stale, "redis": found - fresh - stale})
        return rows


class _Side:
    """What the store knows of users, or of items."""

    def __init__(self, codec: RowCodec, bundle_id: str, cache_bytes: int) -> None:
        self.codec = codec
        self.prefix = key_prefix(bundle_id, codec.side).encode()
        self.arena = Arena(codec, cache_bytes)


def _merge(one: Rows, other: Rows, order: NDArray[np.int64]) -> Rows:
    """Of the rows of both, one after the other, those in the places [n]."""
    plain = f"V{one.records.dtype.itemsize}"  # as plain bytes, which are taken much faster than fields
    records = np.concatenate([one.records.view(plain), other.records.view(plain)])[order].view(one.records.dtype)
    histories = (*one.histories, *other.histories)
    return Rows(
        records,
        np.concatenate([one.found, other.found])[order],
        tuple(histories[place] for place in order.tolist()) if histories else (),
        other.damaged,
    )
