"""What the service asks of a store of live states. It knows ids and packed states, no bundle's rows."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from msd.contract.rows import RowSide
from service.live.batch import Batch, Outcome
from service.live.stream import Stream


class States(NamedTuple):
    """Packed states in the order of the ids asked for, None where there is none; the stream, None before any event."""

    packed: Sequence[bytes | None]
    stream: Stream | None


class LiveStore(Protocol):
    """Live states by id. Failing is always a LiveError."""

    is_local: bool
    """Whether `get` waits for nobody."""

    async def get(self, side: RowSide, ids: Sequence[str]) -> States:
        """The states of `ids`; what an answered `add` changed is in them."""
        ...

    async def add(self, batch: Batch) -> Outcome:
        """Folds a batch, whole or not at all; returns when it lasts. A batch that failed can be given again."""
        ...

    async def close(self) -> None:
        """Lets go of what the store holds."""
        ...
