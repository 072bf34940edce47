"""State of a user or an item: decayed counts, and a user's recent impressions, made by one pure fold over events.

It folds the events of live states and of goldens; `native/core/fold.hpp` repeats it for training and for exported rows,
tested to be equal. It does not know where events come from.
"""

from bisect import insort
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from msd.contract.schema import FeatureSchema

_HALF_LIFE_S = 30 * 86_400.0
Seconds = TypeVar("Seconds", float, NDArray[np.float64])


class Impression(NamedTuple):
    """What a user did with one item: when it was last shown or clicked (Unix s), how often shown, how often clicked.

    Infinite `at`: at the time of the request, whose history tells no times.
    """

    at: float
    item_id: str
    shown: float = 1.0
    clicked: float = 1.0

    def joined(self, other: "Impression") -> "Impression":
        """Return both impressions of the same item as one, of the later time."""
        at = max(self.at, other.at)
        return Impression(at, self.item_id, self.shown + other.shown, self.clicked + other.clicked)


class Event(NamedTuple):
    """One impression: its time (Unix s), whether it was clicked, and the item to remember (users only).

    A click reported separately from its impression, as in live events, is not `shown`: an impression and such a click
    at one moment fold, in either order, to the same state as one event of both. Only the item that a full history drops
    may be another. `times`: the number of equal impressions.
    """

    at: float
    clicked: bool
    item_id: str | None = None
    shown: bool = True
    times: float = 1.0


class StateRule(NamedTuple):
    """How counts decay and how many items a user's history keeps."""

    half_life_s: float
    history_length: int


def state_rules(schema: FeatureSchema) -> dict[Literal["user", "item"], StateRule]:
    """Return, by side, how states decay and how many items they keep; a side whose counts no model reads decays as the
    other."""
    sides: tuple[Literal["user", "item"], ...] = ("user", "item")
    own = {side: state.half_life_s for side in sides if (state := schema.state(side))}
    some = next(iter(own.values()), _HALF_LIFE_S)
    return {side: StateRule(own.get(side, some), schema.history.length) for side in sides}


@dataclass(frozen=True, slots=True)
class EntityState:
    """Counts decayed to, and complete up to, `as_of` (Unix s); a user's impressions, one an item, oldest first."""

    impressions: float = 0.0
    clicks: float = 0.0
    as_of: float = 0.0
    history: tuple[Impression, ...] = ()


def decay(elapsed: Seconds, half_life_s: float) -> Seconds:
    """Return the factor of counts after some seconds, for a number or an array: they halve every half-life.

    `service.live.redis_script` (Lua) and `native/core/fold.hpp` (C++) repeat it.
    """
    exponent = -elapsed / half_life_s
    factor: Seconds = np.exp2(exponent) if isinstance(exponent, np.ndarray) else 2.0**exponent
    return factor


def advance(rule: StateRule, state: EntityState, at: float) -> EntityState:
    """Return the state, complete up to `at`. An earlier `at` changes nothing."""
    if at <= state.as_of:
        return state
    fade = decay(at - state.as_of, rule.half_life_s)
    return EntityState(state.impressions * fade, state.clicks * fade, at, state.history)


def fold(rule: StateRule, state: EntityState, event: Event) -> EntityState:
    """Return the state after one more event. A late event counts as much as if it had arrived in time."""
    state = advance(rule, state, event.at)
    weight = event.times * decay(state.as_of - event.at, rule.half_life_s)
    history = state.history
    if event.item_id is not None:
        shown, clicked = (event.times if counts else 0.0 for counts in (event.shown, event.clicked))
        history = remember(history, Impression(event.at, event.item_id, shown, clicked), rule.history_length)
    return EntityState(
        state.impressions + (weight if event.shown else 0.0),
        state.clicks + (weight if event.clicked else 0.0),
        state.as_of,
        history,
    )


def remember(history: tuple[Impression, ...], new: Impression, length: int) -> tuple[Impression, ...]:
    """Return the history with one more impression; those of one item are joined.

    Of more than `length` items the oldest goes; but if clicks are so rare that at most a fifth of the items were
    clicked, the oldest of the others. `service.live.redis_script` (Lua) and `native/core/fold.hpp` repeat it.
    """
    held = []
    for known in history:
        if known.item_id == new.item_id:
            new = known.joined(new)
        else:
            held.append(known)
    insort(held, new)
    surplus, kept = len(held) - length, []
    clicks = sum(known.clicked > 0 for known in held) if surplus > 0 else 0
    for known in held:
        is_clicked = known.clicked > 0
        if surplus > 0 and (clicks > length // 5 or not is_clicked):
            surplus, clicks = surplus - 1, clicks - is_clicked
        else:
            kept.append(known)
    return tuple(kept)
