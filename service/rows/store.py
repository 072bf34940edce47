"""The interface of row stores, how rows are counted, and the default store: the bundle's own files."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from msd.contract.bundle import ROWS, Bundle
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec, Rows, RowSide
from native import core
from native.layout import core_rows
from service.errors import StoreError
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

    def core_rows(self) -> CoreRows | None:
        """Rows for the native core; None if rows are not held in memory."""
        ...


class BundleFileStore:
    """Reads rows from the bundle's files. Raises BundleError if a file cannot be opened."""

    name = "file"

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        self._metrics = metrics
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES}
        self._files = {
            side: RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id) for side, codec in self._codecs.items()
        }

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Rows:
        """Return the rows of `ids`. Raises StoreError if a block that they touch is damaged, with the readable ones."""
        try:
            rows = self._files[side].get(ids)
        except BundleError as error:
            rows = self._codecs[side].unpack(self._readable(side, ids))
            rows = rows._replace(stale=np.zeros(len(ids), bool))
            tell_rows(self._metrics, side, rows, {"file": int(rows.found.sum())})
            raise StoreError(str(error), rows) from error
        tell_rows(self._metrics, side, rows, {"file": int(rows.found.sum())})
        return rows

    def core_rows(self) -> CoreRows:
        users, items = (core_rows(self._files[side].memory()) for side in ROW_SIDES)
        return CoreRows(users, items)

    async def check(self) -> None:
        """Nothing: opening has checked what is possible without reading all rows."""

    async def close(self) -> None:
        """Nothing: files and memory are released with the process."""

    def _readable(self, side: RowSide, ids: Sequence[str]) -> list[bytes | None]:
        rows: list[bytes | None] = []
        for entity_id in ids:
            try:
                rows += self._files[side].raw([entity_id])
            except BundleError:
                rows.append(None)
        return rows
