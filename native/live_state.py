"""Live states of users and items in the core, which folds and packs them (`native/core/live_state.hpp`); and those of a
golden, after its events. Does not know where states are kept.
"""

from collections.abc import Callable, Sequence

from msd.contract.golden import GoldenEvent
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.state import StateRule, state_rules
from native import core

AskLive = Callable[[str | None, Sequence[str]], "core.LiveStates | None"]
"""Returns the states of a user, None if it is anonymous, and of candidates, as `service.live` does."""
_LAG_S = 60.0
_NOTHING_YET = -1.0


def begin(
    impressions: float, clicks: float, as_of: float, history: Sequence[tuple[float, str, float, float]] = ()
) -> "core.LiveState":
    """Return the state of a row: events up to its `as_of` (Unix s) are in it."""
    return core.LiveState(impressions, clicks, as_of, as_of, history)


def unpack_state(packed: bytes | None) -> "core.LiveState | None":
    """Return a packed state; None for None, and for invalid bytes."""
    return core.LiveState.unpack(packed)


def take(rule: StateRule, live: "core.LiveState", at: float, is_click: bool, item: str | None) -> bool:
    """Fold an impression, or a click on it, at a time (Unix s). Return False if the row includes it. `item`: what to
    remember of it."""
    return live.take(
        half_life_s=rule.half_life_s,
        history_length=rule.history_length,
        at=at,
        is_shown=not is_click,
        is_clicked=is_click,
        item=item,
    )


class GoldenLive:
    """The live states of one golden, as stores hold them after its events."""

    def __init__(
        self,
        schema: FeatureSchema,
        events: Sequence[GoldenEvent],
        user_id: str | None,
        user: Rows,
        ids: Sequence[str],
        items: Rows,
    ) -> None:
        """`user`: the row of the user [1], `items` those of `ids`; an ID without one has no counts."""
        self._rules, self._until = state_rules(schema), max(event.at for event in events)
        self._states: dict[RowSide, dict[str, core.LiveState]] = {"user": {}, "item": {}}
        if user_id is not None:
            self._states["user"][user_id] = _state_of(user, 0)
        for place, item in enumerate(ids):
            self._states["item"][item] = _state_of(items, place)
        self._changed = {event.item_id for event in events}
        for event in events:
            if user_id is not None:
                take(self._rules["user"], self._states["user"][user_id], event.at, event.is_click, event.item_id)
            of_item = self._states["item"].setdefault(event.item_id, begin(0.0, 0.0, _NOTHING_YET))
            take(self._rules["item"], of_item, event.at, event.is_click, None)

    def states(self, user_id: str | None, ids: Sequence[str]) -> "core.LiveStates":
        """Return the states of the user and of candidates, in the core's form."""
        items = [self._states["item"][one].pack() if one in self._changed else None for one in ids]
        return core.LiveStates(
            user=None if user_id is None else self._states["user"][user_id].pack(),
            items=items,
            stream=(0.0, self._until),
            lag_s=_LAG_S,
            user_half_life_s=self._rules["user"].half_life_s,
            item_half_life_s=self._rules["item"].half_life_s,
            unknown=None,
        )


def _state_of(rows: Rows, place: int) -> "core.LiveState":
    """Return the state of a row."""
    if not rows.found[place]:
        return begin(0.0, 0.0, _NOTHING_YET)
    impressions, clicks, as_of = (float(rows.records[name][place]) for name in ("impressions", "clicks", "as_of"))
    return begin(impressions, clicks, as_of, rows.histories[place] if rows.histories else ())
