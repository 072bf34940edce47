"""What the scorer asks of a store of rows, and the one error that a store gives."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from msd.contract.errors import MsdError
from msd.contract.rows import Rows, RowSide
from service.metrics import Metrics, Tier


class StoreError(MsdError):
    """The store cannot be reached, is damaged, or holds another bundle's rows; the message says which and where.

    `rows` are those that can be had all the same, in the order asked for, the others missing; None if there are none.
    """

    def __init__(self, message: str, rows: Rows | None = None) -> None:
        super().__init__(message)
        self.rows = rows


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
