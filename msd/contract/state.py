"""State of a user or an item: decayed counts and recent likes, made by one pure fold over events.

The same fold makes training features, exported rows and live state. It does not know where events come from.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Seconds = TypeVar("Seconds", float, NDArray[np.float64])


class Event(NamedTuple):
    """One impression: its time (Unix s), whether it was clicked, and the item to remember if so (users only).

    A click reported separately from its impression, as in live events, is not `shown`: an impression and such a click
    at one moment fold, in either order, to the same state as one event of both. `times`: the number of equal
    impressions; they are remembered as one like.
    """

    at: float
    clicked: bool
    item_id: str | None = None
    shown: bool = True
    times: float = 1.0


class StateRule(NamedTuple):
    """How counts decay and how many likes are kept."""

    half_life_s: float
    history_length: int


@dataclass(frozen=True, slots=True)
class EntityState:
    """Counts decayed to, and complete up to, `as_of` (Unix s); likes as (at, item ID), oldest first."""

    impressions: float = 0.0
    clicks: float = 0.0
    as_of: float = 0.0
    likes: tuple[tuple[float, str], ...] = ()

    @property
    def history(self) -> tuple[str, ...]:
        """Return the liked items' IDs, oldest first."""
        return tuple(item_id for _, item_id in self.likes)


def decay(elapsed: Seconds, half_life_s: float) -> Seconds:
    """Return the factor of counts after some seconds, for a number or an array: they halve every half-life.

    `service.live.redis_script` (Lua) and `native/core/live.hpp` (C++) repeat it.
    """
    exponent = -elapsed / half_life_s
    factor: Seconds = np.exp2(exponent) if isinstance(exponent, np.ndarray) else 2.0**exponent
    return factor


def advance(rule: StateRule, state: EntityState, at: float) -> EntityState:
    """Return the state, complete up to `at`. An earlier `at` changes nothing."""
    if at <= state.as_of:
        return state
    fade = decay(at - state.as_of, rule.half_life_s)
    return EntityState(state.impressions * fade, state.clicks * fade, at, state.likes)


def fold(rule: StateRule, state: EntityState, event: Event) -> EntityState:
    """Return the state after one more event. A late event counts as much as if it had arrived in time."""
    state = advance(rule, state, event.at)
    weight = event.times * decay(state.as_of - event.at, rule.half_life_s)
    likes = state.likes
    if event.clicked and event.item_id is not None:
        like = (event.at, event.item_id)
        place = bisect_right(likes, like)
        likes = (*likes[:place], like, *likes[place:])[-rule.history_length :]
    return EntityState(
        state.impressions + (weight if event.shown else 0.0),
        state.clicks + (weight if event.clicked else 0.0),
        state.as_of,
        likes,
    )
