"""Rows from the bundle's own files, memory-mapped: the default store, which needs nothing beside the bundle."""

from collections.abc import Sequence

from msd.contract.bundle import ROWS, Bundle
from msd.contract.errors import BundleError
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, Rows, RowSide
from service.stores.store import StoreError


class BundleFileStore:
    """Reads rows where the bundle keeps them. Raises BundleError when a file cannot be opened."""

    name = "file"

    def __init__(self, bundle: Bundle) -> None:
        self._files: dict[RowSide, RowFile] = {side: _open(bundle, side) for side in ("user", "item")}

    async def get(self, side: RowSide, ids: Sequence[str]) -> Rows:
        """The rows of `ids`. Raises StoreError when a block that they touch is damaged."""
        try:
            return self._files[side].get(ids)
        except BundleError as error:
            raise StoreError(str(error)) from error

    async def check(self) -> None:
        """Opening has checked what can be checked without reading all rows."""

    async def close(self) -> None:
        """The maps go with the process."""


def _open(bundle: Bundle, side: RowSide) -> RowFile:
    return RowFile(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)
