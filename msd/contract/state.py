"""What is remembered of a user or an item: decayed counts and recent likes, made by one pure fold over events.

The same fold makes training features, exported rows and live state. It does not know where events come from.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """One impression: when (unix s), whether it was clicked, and the item to remember if so (users only).

    A click that is told apart from its impression, as live events are, is one that is not `shown`: an impression and
    such a click of the same moment fold, in either order, to what the one event of both folds to. `times`: how many
    alike impressions it stands for; they are remembered as one like.
    """

    at: float
    clicked: bool
    item_id: str | None = None
    shown: bool = True
    times: float = 1.0


class StateRule(NamedTuple):
    """How counts fade and how many likes are kept."""

    half_life_s: float
    history_length: int


@dataclass(frozen=True, slots=True)
class EntityState:
    """Counts decayed to, and complete up to, `as_of` (unix s); likes as (at, item id), oldest first."""

    impressions: float = 0.0
    clicks: float = 0.0
    as_of: float = 0.0
    likes: tuple[tuple[float, str], ...] = ()

    @property
    def history(self) -> tuple[str, ...]:
        """The liked items' ids, oldest first."""
        return tuple(item_id for _, item_id in self.likes)


def advance(rule: StateRule, state: EntityState, at: float) -> EntityState:
    """The same state, complete up to `at`: counts fade by half every half-life. An earlier `at` changes nothing."""
    if at <= state.as_of:
        return state
    fade = 2.0 ** ((state.as_of - at) / rule.half_life_s)
    return EntityState(state.impressions * fade, state.clicks * fade, at, state.likes)


def fold(rule: StateRule, state: EntityState, event: Event) -> EntityState:
    """The state after one more event. An event that comes late counts as much as if it had come in time."""
    state = advance(rule, state, event.at)
    weight = event.times * 2.0 ** ((event.at - state.as_of) / rule.half_life_s)
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
