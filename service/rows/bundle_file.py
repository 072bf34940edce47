"""Rows from the bundle's own files: the default store, which needs nothing beside the bundle."""

from collections.abc import Sequence

import numpy as np

import native
from msd.contract.bundle import ROWS, Bundle
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, Rows, RowSide
from native.layout import core_rows
from service.errors import StoreError
from service.rows.store import CoreRows, tell_rows
from service.telemetry.metrics import Metrics

SIDES: tuple[RowSide, ...] = ("user", "item")


class BundleFileStore:
    """Reads rows where the bundle keeps them. Raises BundleError when a file cannot be opened."""

    name = "file"

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        self._metrics = metrics
        self._codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in SIDES}
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
        users, items = (core_rows(self._files[side]) for side in SIDES)
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
