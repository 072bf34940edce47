"""The interface of row stores, how rows are counted, and the default store: the bundle's own files."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from msd.contract.bundle import ROWS, Bundle
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec, Rows, RowSide
from msd.contract.schema import MAX_ID_CHARS
from native import core
from native.layout import core_rows
from service.errors import StoreError
from service.rows.arena import LET_GO, ROW_OVERHEAD, Arena
from service.telemetry.metrics import Metrics, Tier


def tell_rows(metrics: Metrics, side: RowSide, rows: Rows, tiers: Mapping[Tier, int]) -> None:
    """Count rows by where they were found, and observe the age of one of them."""
    missing = len(rows.found)
    for tier, count in tiers.items():
        missing -= count
        if count:
            metrics.rows[tier].inc(count)
    if missing:
        metrics.rows["missing"].inc(missing)
    if len(rows.found) and rows.found[0]:
        metrics.row_ages[side].observe(time.time() - float(rows.records["written_at"][0]))


class CoreRows(NamedTuple):
    """The native core's row sources: both sides' forms, and the epochs that are current; None for files, which always
    are."""

    users: "core.RowFile | core.Arena"
    items: "core.RowFile | core.Arena"
    epochs: Callable[[], Sequence[int]] | None = None


class RowStore(Protocol):
    """Rows of users and items by ID. Every failure is a StoreError, within the store's time limit.

    Methods run on the event loop and must not block it. A store counts found, missing and stale rows (`tell_rows`); its
    caller counts damaged rows and errors.
    """

    name: str

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Rows:
        """Return the rows of `ids` in order, in at most one round trip; the record of missing values for those without.

        Gives up at the deadline, of `time.perf_counter`.
        """
        ...

    async def check(self) -> None:
        """Raise StoreError if the store cannot serve this bundle."""
        ...

    async def close(self) -> None: ...

    def exported(self, ids: Sequence[str]) -> Rows | None:
        """Return the export's rows of items; None if rows of the live catalogue are kept among them."""
        ...

    def replace(self, ids: Sequence[str], rows: Rows) -> None:
        """Serve these rows of distinct items, or their absence, in place of the export's. Not for rows that are kept
        among them."""
        ...

    def restore(self, ids: Sequence[str]) -> None:
        """Serve the export's rows of items again."""
        ...

    def core_rows(self) -> CoreRows | None:
        """Rows for the native core; None if rows are not held in memory."""
        ...


class BundleFileStore:
    """Reads rows from the bundle's files. Raises BundleError if a file cannot be opened."""

    name = "file"

    def __init__(self, bundle: Bundle, metrics: Metrics, catalogued: int = 0) -> None:
        """`catalogued`: the most items of the live catalogue."""
        self._metrics = metrics
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES}
        self._files = {
            side: RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id) for side, codec in self._codecs.items()
        }

        room = catalogued * (self._codecs["item"].dtype.itemsize + ROW_OVERHEAD + 4 * MAX_ID_CHARS)
        self._newer = Arena(self._codecs["item"], room) if catalogued else None
        """Rows of the live catalogue. None is evicted: there is room for all."""

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Rows:
        """Return the rows of `ids`. Raises StoreError if a block that they touch is damaged, with the readable ones."""
        try:
            rows = self._with_newer(side, ids, self._files[side].get(ids))
        except BundleError as error:
            rows = self._codecs[side].unpack(self._readable(side, ids))
            rows = self._with_newer(side, ids, rows._replace(stale=np.zeros(len(ids), bool)))
            tell_rows(self._metrics, side, rows, {"file": int(rows.found.sum())})
            raise StoreError(str(error), rows) from error
        tell_rows(self._metrics, side, rows, {"file": int(rows.found.sum())})
        return rows

    def core_rows(self) -> CoreRows:
        users, items = (core_rows(self._files[side].memory()) for side in ROW_SIDES)
        if self._newer is not None:
            items.lay(self._newer.core())
        return CoreRows(users, items)

    def exported(self, ids: Sequence[str]) -> Rows:
        try:
            return self._files["item"].get(ids)
        except BundleError:
            return self._codecs["item"].unpack(self._readable("item", ids))

    def replace(self, ids: Sequence[str], rows: Rows) -> None:
        assert self._newer is not None, "there is a live catalogue"
        self._newer.put(ids, rows, 0)

    def restore(self, ids: Sequence[str]) -> None:
        assert self._newer is not None, "there is a live catalogue"
        for item_id in ids:
            self._newer.drop(item_id)

    async def check(self) -> None:
        """Nothing: opening has checked what is possible without reading all rows."""

    async def close(self) -> None:
        """Release the catalogue's rows: the garbage collector skips old objects. Files are released with the model."""
        while self._newer is not None and self._newer.let_go(LET_GO):
            await asyncio.sleep(0)

    def _with_newer(self, side: RowSide, ids: Sequence[str], rows: Rows) -> Rows:
        """Return rows with those of the live catalogue in their places."""
        if side == "user" or not self._newer:
            return rows
        places = self._newer.look_up(ids).places
        if not (is_newer := places >= 0).any():
            return rows
        newer = self._newer.rows(places[is_newer])
        records, found = rows.records.copy(), rows.found.copy()
        records[is_newer], found[is_newer] = newer.records, newer.found
        return rows._replace(records=records, found=found)

    def _readable(self, side: RowSide, ids: Sequence[str]) -> list[bytes | None]:
        rows: list[bytes | None] = []
        for entity_id in ids:
            try:
                rows += self._files[side].raw([entity_id])
            except BundleError:
                rows.append(None)
        return rows
