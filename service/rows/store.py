"""What the scorer asks of a store of rows, how rows are counted, and the default store: the bundle's own files, which
needs nothing beside the bundle.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

import native
from msd.contract.bundle import ROWS, Bundle
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec, Rows, RowSide
from native.layout import core_rows
from service.errors import StoreError
from service.telemetry.metrics import Metrics, Tier


def tell_rows(metrics: Metrics, side: RowSide, rows: Rows, tiers: Mapping[Tier, int]) -> None:
    """Counts rows by where they were found, and one of them by its age."""
    missing = len(rows.found)
    for tier, count in tiers.items():
        missing -= count
        if count:
            metrics.rows[tier].inc(count)
    if missing:
        metrics.rows["missing"].inc(missing)
    if len(rows.found) and rows.found[0]:
        metrics.row_ages[side].observe(time.time() - float(rows.records["written_at"][0]))


class CoreFound(NamedTuple):
    """Which rows the native core found: whether the user's, ids without one among the candidates, rows of candidates
    and history and how many were asked for, when the user's and the first candidate's were written (unix s; 0: there is
    none), and how long ago what is live of the user ends (s; NaN: there are no events)."""

    has_user: bool
    missing: int
    items: int
    asked: int
    user_written_at: float
    item_written_at: float
    live_age_s: float


class CoreRows(NamedTuple):
    """What the native core reads rows from, beside the store: its forms of both sides, the tier that rows found there
    count as, and the epochs that are sure just now; None for files, whose rows always are."""

    users: Any
    items: Any
    tier: Tier
    epochs: Callable[[], Sequence[int]] | None = None


class RowStore(Protocol):
    """Rows of users and items by id. Failing is always a StoreError, and never later than the store's time limit."""

    name: str

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Rows:
        """The rows of `ids` in their order, in one round trip at most; where there is none, that of missing values.
        It is given up at the deadline, of `time.perf_counter`."""
        ...

    async def check(self) -> None:
        """Raises StoreError when the store is not fit to serve this bundle."""
        ...

    async def close(self) -> None:
        """Lets go of what the store holds."""
        ...

    def core_rows(self) -> CoreRows | None:
        """For the native core, where it is built; None where rows are not held in memory."""
        ...


class BundleFileStore:
    """Reads rows where the bundle keeps them. Raises BundleError when a file cannot be opened."""

    name = "file"

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        self._metrics = metrics
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in ROW_SIDES}
        self._files = {
            side: RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id) for side, codec in self._codecs.items()
        }

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> Rows:
        """The rows of `ids`. Raises StoreError when a block that they touch is damaged, with those that are not."""
        try:
            rows = self._files[side].get(ids)
        except BundleError as error:
            rows = self._codecs[side].unpack(self._readable(side, ids))
            rows = rows._replace(stale=np.zeros(len(ids), bool))
            tell_rows(self._metrics, side, rows, {"file": int(rows.found.sum())})
            raise StoreError(str(error), rows) from error
        tell_rows(self._metrics, side, rows, {"file": int(rows.found.sum())})
        return rows

    def core_rows(self) -> CoreRows | None:
        """The files' memory."""
        if native.core is None:
            return None
        users, items = (core_rows(self._files[side]) for side in ROW_SIDES)
        return CoreRows(users, items, "file")

    async def check(self) -> None:
        """Opening has checked what can be checked without reading all rows."""

    async def close(self) -> None:
        """Files and memory go with the process."""

    def _readable(self, side: RowSide, ids: Sequence[str]) -> list[bytes | None]:
        """The rows that can be read, by asking for one after the other."""
        rows: list[bytes | None] = []
        for one in ids:
            try:
                rows += self._files[side].raw([one])
            except BundleError:
                rows.append(None)
        return rows
