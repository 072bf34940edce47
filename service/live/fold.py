"""Folds batches of events into states, each event once. Does not know where states are kept."""

from typing import Protocol

from msd.contract.live_state import NOTHING, LiveState, current, pack_state, take, unpack_state
from msd.contract.rows import RowSide
from service.live.batch import SIDES, Batch, LiveEvent, Outcome
from service.live.stream import Stream, after


class States(Protocol):
    """Packed states to read and write, within one transaction."""

    def get(self, side: RowSide, one: str) -> bytes | None:
        """The packed state of an id."""
        ...

    def put(self, side: RowSide, one: str, packed: bytes) -> None:
        """Replaces it."""
        ...

    def is_new(self, event_key: bytes) -> bool:
        """Whether an event was never seen before; it has been from now on."""
        ...


class Fold:
    """The changes of one transaction: states are read and written once, however many events they get."""

    def __init__(self, states: States, stream: Stream | None) -> None:
        self._states = states
        self._held: dict[tuple[RowSide, str], LiveState | None] = {}
        self._changed: set[tuple[RowSide, str]] = set()
        self.stream = stream

    def add(self, batch: Batch) -> Outcome:
        """Folds one batch."""
        duplicates = late = in_row = 0
        for stretch in batch.stretches:
            self.stream = after(self.stream, stretch, batch.lag_s)
        for event in batch.events:
            if not self._states.is_new(event.key):
                duplicates += 1
                continue
            is_late, is_in_row = self._fold(batch, event)
            late += is_late
            in_row += is_in_row
        newest = self.stream.until if self.stream else 0.0
        return Outcome(len(batch.events) - duplicates, duplicates, late, in_row, newest)

    def write(self) -> None:
        """Writes the states that changed."""
        for key in self._changed:
            state = self._held[key]
            assert state is not None, "what changed is a state"
            self._states.put(*key, pack_state(state))

    def _fold(self, batch: Batch, event: LiveEvent) -> tuple[bool, bool]:
        is_late = is_in_row = False
        for side in SIDES:
            one, of_side = event.of(side)
            key = side, one
            if key not in self._held:
                self._held[key] = unpack_state(self._states.get(side, one))
            before = current(self._held[key], batch.rows[side].get(one, NOTHING))
            state = take(batch.rules[side], before, of_side)
            if state is before:
                is_in_row = True
                continue
            is_late |= event.at < before.state.as_of
            self._held[key] = state
            self._changed.add(key)
        return is_late, is_in_row
