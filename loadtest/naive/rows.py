"""Where the naive service has its rows from: an MGET a request, as tutorials do, or a dict of all of them.

The bytes are those that `msd publish` puts into Redis and that a bundle's files hold.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
from redis.asyncio import Redis

from msd.contract.bundle import ROWS, Bundle
from msd.contract.redis_keys import key_prefix
from msd.contract.row_file import RowFile
from msd.contract.rows import Records, RowCodec, RowSide, unpack_history

_SIDES: tuple[RowSide, ...] = ("user", "item")


class FoundRecords(NamedTuple):
    """One user's record [1] and history, and records [N] of items; what is not known has the record of the missing."""

    user: Records
    history: Records
    items: Records


class Values(Protocol):
    """Bytes by id."""

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of each id, None where there are none."""
        ...


class RedisValues:
    """Reads them with one MGET."""

    def __init__(self, bundle_id: str, url: str) -> None:
        self._prefixes = {side: key_prefix(bundle_id, side) for side in _SIDES}
        self._redis = Redis.from_url(url)

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of each id."""
        prefix = self._prefixes[side]
        return cast("list[bytes | None]", await self._redis.mget([prefix + one for one in ids]))


class MemoryValues:
    """Holds all rows of a bundle in dicts."""

    def __init__(self, bundle: Bundle) -> None:
        self._held: dict[RowSide, dict[str, bytes]] = {}
        for side in _SIDES:
            file = RowFile(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)
            self._held[side] = dict(file.scan(0, file.count))

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of each id."""
        held = self._held[side]
        return [held.get(one) for one in ids]


class NaiveRows:
    """Rows as numpy records."""

    def __init__(self, bundle: Bundle, values: Values) -> None:
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in _SIDES}
        self._length = bundle.schema.history.length
        self._values = values

    async def find(self, user_id: str, item_ids: Sequence[str]) -> FoundRecords:
        """The user first, because his history is in his row; then the candidates and the history in one go."""
        (value,) = await self._values.get("user", [user_id])
        codec = self._codecs["user"]
        user = self._records("user", [value])
        history = () if value is None else unpack_history(value[codec.dtype.itemsize :]) or ()
        values = await self._values.get("item", [*item_ids, *history])
        count = len(item_ids)
        known = [one for one in values[count:] if one is not None][-self._length :]
        return FoundRecords(user, self._records("item", known), self._records("item", values[:count]))

    def _records(self, side: RowSide, values: Sequence[bytes | None]) -> Records:
        codec = self._codecs[side]
        size, missing = codec.dtype.itemsize, codec.missing.tobytes()
        return np.frombuffer(b"".join(missing if one is None else one[:size] for one in values), codec.dtype)
