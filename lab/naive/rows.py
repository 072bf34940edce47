"""Rows of the naive service, and the inputs of a graph with one row per candidate: an MGET per request, as in
tutorials, or a dict of all rows. The bytes are those of `msd publish` and of a bundle's files.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from msd.contract.bundle import ROWS, Bundle
from msd.contract.errors import MsdError
from msd.contract.row_file import RowFile
from msd.contract.rows import Records, RowCodec, RowSide, unpack_history
from msd.contract.schema import FeatureSchema
from service.redis.keys import key_prefix

_SIDES: tuple[RowSide, ...] = ("user", "item")
_GIVEN = (
    *("user_categorical", "user_semantic", "history_categorical", "history_semantic", "history_mask"),
    *("item_categorical", "item_semantic"),
)


class FoundRecords(NamedTuple):
    """One user's record [1]; their history, with whether each item was clicked; and records [N] of items. Unknown IDs
    have the record of missing values."""

    user: Records
    history: Records
    is_clicked: NDArray[np.bool_]
    items: Records


class Values(Protocol):
    """Bytes by ID."""

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """Return the bytes of each ID, None if there are none."""
        ...


class RedisValues:
    """Reads with one MGET."""

    def __init__(self, bundle_id: str, url: str) -> None:
        self._prefixes = {side: key_prefix(bundle_id, side) for side in _SIDES}
        self._redis = Redis.from_url(url)

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """Return the bytes of each ID."""
        prefix = self._prefixes[side]
        return cast("list[bytes | None]", await self._redis.mget([prefix + row_id for row_id in ids]))


class MemoryValues:
    """Holds all rows of a bundle in dicts."""

    def __init__(self, bundle: Bundle) -> None:
        self._held: dict[RowSide, dict[str, bytes]] = {}
        for side in _SIDES:
            file = RowFile(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)
            self._held[side] = dict(file.scan(0, file.count))

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """Return the bytes of each ID."""
        held = self._held[side]
        return [held.get(row_id) for row_id in ids]


class NaiveRows:
    """Rows as numpy records."""

    def __init__(self, bundle: Bundle, values: Values) -> None:
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in _SIDES}
        self._length = bundle.schema.history.length
        self._values = values

    async def find(self, user_id: str, item_ids: Sequence[str]) -> FoundRecords:
        """Find the user first, because the row has the history; then candidates and history together."""
        (value,) = await self._values.get("user", [user_id])
        codec = self._codecs["user"]
        user = self._records("user", [value])
        history = () if value is None else unpack_history(value[codec.dtype.itemsize :]) or ()
        values = await self._values.get("item", [*item_ids, *(seen.item_id for seen in history)])
        count = len(item_ids)
        found = zip(history, values[count:], strict=True)
        known = [(seen.clicked > 0, row) for seen, row in found if row is not None][-self._length :]
        is_clicked = np.array([one for one, _ in known], bool)
        rows = self._records("item", [row for _, row in known])
        return FoundRecords(user, rows, is_clicked, self._records("item", values[:count]))

    def _records(self, side: RowSide, values: Sequence[bytes | None]) -> Records:
        codec = self._codecs[side]
        size, missing = codec.dtype.itemsize, codec.missing.tobytes()
        return np.frombuffer(b"".join(missing if row is None else row[:size] for row in values), codec.dtype)


def check_inputs(names: Sequence[str]) -> None:
    """Raise MsdError for an input that is not provided."""
    if unknown := sorted(set(names) - set(_GIVEN)):
        raise MsdError(f"the naive service has no input {unknown[0]!r} to give; it has {', '.join(_GIVEN)}")


def tiled_inputs(schema: FeatureSchema, found: FoundRecords, wanted: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    """Return the wanted inputs of a graph, each with N rows: user inputs are repeated."""
    count, kept, length = len(found.items), len(found.history), schema.history.length
    inputs: dict[str, NDArray[np.generic]] = {}
    for name in wanted:
        side, _, kind = name.partition("_")
        if side == "item":
            inputs[name] = _typed(found.items[kind])
            continue
        if side == "user":
            row = _typed(found.user[kind])
        else:
            values = found.is_clicked.astype(np.float32) if kind == "mask" else _typed(found.history[kind])
            row = np.zeros((1, length, *values.shape[1:]), values.dtype)
            row[0, :kept] = values
        inputs[name] = np.repeat(row, count, axis=0)
    return inputs


def _typed(column: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(column, np.int32 if column.dtype.kind == "i" else np.float32)
