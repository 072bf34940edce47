"""Live states of users and items in the core, which folds and packs them (`native/core/live_state.hpp`); and those of a
golden, after its events. Does not know where states are kept.
"""

from collections.abc import Sequence
from typing import Any

from msd.contract.golden import GoldenEvent
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from msd.contract.state import StateRule, state_rules
from native import core

_LAG_S = 60.0
_NOTHING_YET = -1.0


def begin(
    impressions: float, clicks: float, as_of: float, history: Sequence[tuple[float, str, float, float]] = ()
) -> Any:  # noqa: ANN401 - the core has no types
    """Return the state of a row: events up to its `as_of` (Unix s) are in it."""
    assert core is not None, "live states are kept where there is a core"
    return core.LiveState(impressions, clicks, as_of, as_of, history)


def unpack_state(packed: bytes | None) -> Any:  # noqa: ANN401
    """Return a packed state; None for None, and for invalid bytes."""
    assert core is not None, "live states are kept where there is a core"
    return core.LiveState.unpack(packed)


def take(rule: StateRule, live: Any, at: float, is_click: bool, item: str | None) -> bool:  # noqa: ANN401
    """Fold an impression, or a click on it, at a time (Unix s). Return False if the row includes it. `item`: what to
    remember of it."""
    told = {"at": at, "is_shown": not is_click, "is_clicked": is_click, "item": item}
    return bool(live.take(half_life_s=rule.half_life_s, history_length=rule.history_length, **told))


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
        self._states: dict[RowSide, dict[str, Any]] = {"user": {}, "item": {}}
        if user_id is not None:
            self._states["user"][user_id] = _state_of(user, 0)
        for place, item in enumerate(ids):
            self._states["item"][item] = _state_of(items, place)
        self._changed = {event.item_id for event in events}
        for event in events:
            if user_id is not None:
                take(self._rules["user"], self._states["user"][user_id], event.at, event.is_click, event.item_id)
            item = self._states["item"].setdefault(event.item_id, begin(0.0, 0.0, _NOTHING_YET))
            take(self._rules["item"], item, event.at, event.is_click, None)

    def states(self, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...]:
        """Return the states of the user and of candidates, in the core's form."""
        items = [self._states["item"][one].pack() if one in self._changed else None for one in ids]
        half_lives = self._rules["user"].half_life_s, self._rules["item"].half_life_s
        user = None if user_id is None else self._states["user"][user_id].pack()
        return user, items, (0.0, self._until), _LAG_S, *half_lives, None


def _state_of(rows: Rows, place: int) -> Any:  # noqa: ANN401
    """Return the state of a row."""
    if not rows.found[place]:
        return begin(0.0, 0.0, _NOTHING_YET)
    impressions, clicks, as_of = (float(rows.records[name][place]) for name in ("impressions", "clicks", "as_of"))
    return begin(impressions, clicks, as_of, rows.histories[place] if rows.histories else ())
