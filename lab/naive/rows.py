"""Rows of the naive service, and the inputs of a graph with one row per candidate: an MGET per request, as in
tutorials, or a dict of all rows. The bytes are those of `msd publish` and of a bundle's files.
"""

import json
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from msd.contract.bundle import Bundle
from msd.contract.pricing import PRICED
from msd.contract.request import MAX_CANDIDATES
from msd.contract.row_file import RowFile
from msd.contract.rows import Records, RowCodec, RowSide, unpack_history
from msd.contract.tensors import Tensors
from native import core
from native.layout import AskedRequest, core_model, core_schema, fetched_rows, new_tensors
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
        self.held: dict[RowSide, dict[str, bytes]] = {}
        for side in _SIDES:
            file = RowFile.of(bundle, side)
            self.held[side] = dict(file.scan(0, file.count))

    async def get(self, side: RowSide, ids: Sequence[str]) -> Sequence[bytes | None]:
        """Return the bytes of each ID."""
        held = self.held[side]
        return [held.get(row_id) for row_id in ids]


class NaiveRows:
    """Rows as numpy records, and the inputs of the reference model."""

    def __init__(self, bundle: Bundle, values: Values) -> None:
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in _SIDES}
        self._length = bundle.schema.history.length
        self._values = values

    async def inputs(self, user_id: str, item_ids: Sequence[str], wanted: Sequence[str]) -> Tensors:
        """Return the wanted inputs of a graph, each with N rows."""
        return _tiled_inputs(self._length, await self._find(user_id, item_ids), wanted)

    async def _find(self, user_id: str, item_ids: Sequence[str]) -> FoundRecords:
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


class AssembledRows:
    """Any inputs, by the native core, of rows that were fetched as `NaiveRows` fetches them."""

    def __init__(self, bundle: Bundle, values: Values) -> None:
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in _SIDES}
        self._values = values
        form, served = core_schema(bundle.schema, self._codecs), core_model("", PRICED, 0.0)
        self._tensors = new_tensors(bundle.schema, MAX_CANDIDATES)
        self._frame = core.Frame(form, served, self._tensors, MAX_CANDIDATES)

    async def inputs(self, user_id: str, item_ids: Sequence[str], wanted: Sequence[str]) -> Tensors:
        """Return the wanted inputs of a graph, each with N rows."""
        asked = AskedRequest(user_id, list(dict.fromkeys(item_ids)))
        user = self._codecs["user"].unpack(await self._values.get("user", [user_id]))
        items = self._codecs["item"].unpack(await self._values.get("item", asked.wanted(user)))
        body = json.dumps({"user_id": user_id, "candidates": {"id": item_ids}}).encode()
        taken = self._frame.take(body, MAX_CANDIDATES, fetched_rows(user), fetched_rows(items), time.time())
        if taken != core.FillResult.FILLED:
            raise ValueError("the native core refuses the request")
        places = self._frame.rows[: len(item_ids)]
        return {name: self._tensors[name][places if name.startswith("item_") else [0] * len(places)] for name in wanted}


def naive_rows(bundle: Bundle, values: Values, wanted: Sequence[str]) -> NaiveRows | AssembledRows:
    """Return the faster of those that have the wanted inputs."""
    return NaiveRows(bundle, values) if set(wanted) <= set(_GIVEN) else AssembledRows(bundle, values)


def _tiled_inputs(length: int, found: FoundRecords, wanted: Sequence[str]) -> Tensors:
    """User inputs are repeated, and histories of one `length`."""
    count, kept = len(found.items), len(found.history)
    inputs: Tensors = {}
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
