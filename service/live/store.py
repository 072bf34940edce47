"""What the service asks of a store of live states. It knows ids and packed states, no bundle's rows."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.rows import RowSide
from service.live.batch import Batch, Outcome
from service.live.stream import Stream


class States(NamedTuple):
    """Packed states in the order of the n ids asked for, None where there is none; the stream, None before any event;
    and of which it could not be found out whether there is one (`known` [n] is false), None where of all."""

    packed: Sequence[bytes | None]
    stream: Stream | None
    known: NDArray[np.bool_] | None = None


class LiveStore(Protocol):
    """Live states by id. Failing is always a LiveError."""

    is_local: bool
    """Whether `get` waits for nobody."""

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> States:
        """The states of `ids`, by the deadline (of `time.perf_counter`); what an answered `add` changed is in them."""
        ...

    def at_hand(self, side: RowSide, ids: Sequence[str]) -> States | None:
        """The same, for any thread, without waiting; None where that cannot be told at once. `known` is None."""
        ...

    async def add(self, batch: Batch) -> Outcome:
        """Folds a batch; returns when it lasts. One that failed can be given again, whatever became of it."""
        ...

    async def close(self) -> None:
        """Lets go of what the store holds."""
        ...
