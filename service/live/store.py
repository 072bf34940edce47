"""What the service asks of a store of live states, and which store the settings name.

A store knows ids and packed states, no bundle's rows.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.contract.rows import RowSide
from service.live.events import Batch, Outcome, Stream
from service.settings import Settings


class LiveError(MsdError):
    """States cannot be read, or events not be stored; the message says why."""


class States(NamedTuple):
    """Packed states of the n ids asked for, None where there is none; the stream, None before any event; and of which
    ids it is known (`known` [n]) whether there is a state, None if of all."""

    packed: Sequence[bytes | None]
    stream: Stream | None
    known: NDArray[np.bool_] | None = None


class LiveStore(Protocol):
    """Live states by id. Every failure is a LiveError."""

    is_local: bool
    """Whether `get` never waits."""

    async def get(self, side: RowSide, ids: Sequence[str], deadline: float | None = None) -> States:
        """The states of `ids`, by the deadline (of `time.perf_counter`), with all changes of answered `add` calls."""
        ...

    def at_hand(self, side: RowSide, ids: Sequence[str]) -> States | None:
        """The same, for any thread, without waiting; None where that cannot be told at once. `known` is None."""
        ...

    async def add(self, batch: Batch) -> Outcome:
        """Fold a batch; return once it is durable. A batch that failed can be given again, whatever became of it."""
        ...

    async def close(self) -> None:
        """Release what the store holds."""
        ...


def open_live_store(settings: Settings) -> LiveStore:
    """Open the store of live states. Raises LiveError if it cannot be opened."""
    if settings.store == "redis":
        from service.live.redis import RedisStates

        return RedisStates(settings)
    try:
        from service.live.embedded import EmbeddedStates, StateFile
    except ImportError:
        raise LiveError(
            "MSD_LIVE=on keeps live states in LMDB, which is not installed: pip install 'msd-ctr[live]'"
        ) from None
    assert settings.state_dir is not None, "settings with an embedded live state have its folder"
    horizon_s = settings.event_horizon_hours * 3_600
    return EmbeddedStates(StateFile(settings.state_dir, settings.state_mb * 2**20, horizon_s))
