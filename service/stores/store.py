"""What the scorer asks of a store of rows, and the one error that a store gives."""

from collections.abc import Sequence
from typing import Protocol

from msd.contract.errors import MsdError
from msd.contract.rows import Rows, RowSide


class StoreError(MsdError):
    """The store cannot be reached, is damaged, or holds another bundle's rows; the message says which and where."""


class RowStore(Protocol):
    """Rows of users and items by id. Failing is always a StoreError, and never later than the store's time limit."""

    name: str

    async def get(self, side: RowSide, ids: Sequence[str]) -> Rows:
        """The rows of `ids` in their order, in one round trip; ids without a row have the row of missing values."""
        ...

    async def check(self) -> None:
        """Raises StoreError when the store is not fit to serve this bundle."""
        ...

    async def close(self) -> None:
        """Lets go of what the store holds."""
        ...
