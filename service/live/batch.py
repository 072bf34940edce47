"""Events on their way to the states that they change: with the rows from which those begin, and how counts fade.

Whoever writes states needs to know nothing else, no bundle above all.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msd.contract.live_state import LiveState, begin
from msd.contract.rows import Rows, RowSide
from msd.contract.state import Event, StateRule
from service.live.stream import Stream, stretches

SIDES: tuple[RowSide, ...] = ("user", "item")


class LiveEvent(NamedTuple):
    """One event whose time (unix s) is settled."""

    event_id: str
    is_click: bool
    user_id: str
    item_id: str
    at: float

    @property
    def key(self) -> bytes:
        """What tells it from others: of one type, each id is counted once."""
        return (b"c" if self.is_click else b"i") + self.event_id.encode()

    def of(self, side: RowSide) -> tuple[str, Event]:
        """The id whose state it changes, and what that state folds. Only users remember the item."""
        if side == "user":
            return self.user_id, Event(self.at, self.is_click, self.item_id, not self.is_click)
        return self.item_id, Event(self.at, self.is_click, None, not self.is_click)


class Batch(NamedTuple):
    """Events, the rows of their users and items where there are any, and the rule of each side."""

    events: Sequence[LiveEvent]
    rows: Mapping[RowSide, Mapping[str, LiveState]]
    rules: Mapping[RowSide, StateRule]
    lag_s: float

    @property
    def stretches(self) -> list[Stream]:
        """What the events add to the stream."""
        return stretches([event.at for event in self.events], self.lag_s)


class Outcome(NamedTuple):
    """What became of a batch: events counted, events that had been counted before; and of those counted how many came
    after a later one of their user or item, and how many the row of their user or item knew of."""

    accepted: int
    duplicates: int
    late: int
    in_row: int
    newest_at: float


def rows_of(ids: Sequence[str], rows: Rows) -> dict[str, LiveState]:
    """By id, the states that rows hold, of those that there are."""
    records = rows.records
    columns = (records[name].tolist() for name in ("impressions", "clicks", "as_of"))
    histories = rows.histories or ((),) * len(ids)
    return {
        one: begin(impressions, clicks, as_of, history)
        for one, found, impressions, clicks, as_of, history in zip(
            ids, rows.found.tolist(), *columns, histories, strict=True
        )
        if found
    }
