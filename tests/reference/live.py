"""Live states: how an event changes one, how it is packed, and how it is laid over rows."""

import math
import struct
from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tests.reference.request import LONGEST_HISTORY, Seen
from tests.reference.schema import Schema

_HEAD, _SEEN = struct.Struct("<Bdddd"), struct.Struct("<dffH")
_FORMAT, _MOST, _LONGEST_ID = 2, 1e30, 4 * 256
_LONGEST = _HEAD.size + LONGEST_HISTORY * (_SEEN.size + _LONGEST_ID)


class State(NamedTuple):
    """Counts that halve every half-life, complete up to `as_of` (Unix s), and impressions, oldest first, one an item.
    Events up to the watermark are in the row that it began with."""

    impressions: float = 0.0
    clicks: float = 0.0
    as_of: float = 0.0
    history: tuple[Seen, ...] = ()
    watermark: float = 0.0


class Event(NamedTuple):
    """An impression, a click or both at one time (Unix s), `times` times; users remember the item."""

    at: float
    shown: bool
    clicked: bool
    item_id: str | None = None
    times: float = 1.0


def decay(seconds: float, half_life_s: float) -> float:
    return math.pow(2.0, -seconds / half_life_s)


def advance(state: State, at: float, half_life_s: float) -> State:
    """Return the state, complete up to a time."""
    if at <= state.as_of:
        return state
    fade = decay(at - state.as_of, half_life_s)
    return state._replace(impressions=state.impressions * fade, clicks=state.clicks * fade, as_of=at)


def fold(state: State, event: Event, half_life_s: float, length: int) -> State:
    """Return the state after an event; a late one counts as if it had come in time."""
    state = advance(state, event.at, half_life_s)
    weight = event.times * decay(state.as_of - event.at, half_life_s)
    history = state.history
    if event.item_id is not None:
        new = Seen(event.at, event.item_id, event.times * event.shown, event.times * event.clicked)
        history = remember(history, new, length)
    return state._replace(
        impressions=state.impressions + weight * event.shown,
        clicks=state.clicks + weight * event.clicked,
        history=history,
    )


def remember(history: Sequence[Seen], new: Seen, length: int) -> tuple[Seen, ...]:
    """Return a history with an impression. While there are too many, the oldest goes; but while at most a fifth of
    `length` were clicked, the oldest of the others."""
    for known in history:
        new = known.joined(new) if known.item_id == new.item_id else new
    held = [known for known in history if known.item_id != new.item_id]
    insort(held, new)
    while len(held) > length:
        clicked = [known.clicked > 0 for known in held]
        del held[clicked.index(False) if sum(clicked) <= length // 5 and False in clicked else 0]
    return tuple(held)


def pack(state: State) -> bytes:
    """Return a state as stores hold it."""
    head = _HEAD.pack(_FORMAT, state.impressions, state.clicks, state.as_of, state.watermark)
    parts = [(seen, seen.item_id.encode()) for seen in state.history]
    return head + b"".join(_SEEN.pack(seen.at, seen.shown, seen.clicked, len(name)) + name for seen, name in parts)


def counts_in(packed: bytes | None) -> State | None:
    """Return a packed state without its history; None if it is absent, or its numbers are not possible."""
    if packed is None or not _HEAD.size <= len(packed) <= _LONGEST or packed[0] != _FORMAT:
        return None
    _, impressions, clicks, as_of, watermark = _HEAD.unpack_from(packed)
    is_usable = math.isfinite(impressions + clicks + as_of + watermark)
    is_usable = is_usable and 0 <= impressions <= _MOST and 0 <= clicks <= _MOST
    return State(impressions, clicks, as_of, (), watermark) if is_usable else None


def unpack(packed: bytes | None) -> State | None:
    """Return a packed state; None if any part of it is not possible."""
    state = counts_in(packed)
    if packed is None or state is None:
        return None
    history: list[Seen] = []
    place = _HEAD.size
    while place < len(packed):
        if place + _SEEN.size > len(packed) or len(history) == LONGEST_HISTORY:
            return None
        at, shown, clicked, length = _SEEN.unpack_from(packed, place)
        place += _SEEN.size + length
        name = packed[place - length : place]
        if len(name) < length or not (math.isfinite(at) and 0 <= shown <= _MOST and 0 <= clicked <= _MOST):
            return None
        try:
            history.append(Seen(at, name.decode(), shown, clicked))
        except UnicodeDecodeError:
            return None
    return state._replace(history=tuple(history))


class Stream(NamedTuple):
    """Events from `since` to `until` (Unix s) are known. A gap of `lag_s` at most says that nothing happened."""

    since: float
    until: float
    lag_s: float

    def reached(self, at: float) -> float:
        """Return the time up to which counts are complete for a request at `at`."""
        return at if at - self.until <= self.lag_s else self.until

    def covers(self, as_of: float) -> bool:
        """Return whether it follows rows that are complete up to `as_of`."""
        return as_of >= self.since - self.lag_s


def lay_over(
    records: Any,  # noqa: ANN401 - structured rows [n]
    states: Sequence[bytes | None],
    known: Sequence[bool] | None,
    half_life_s: float,
    stream: Stream,
    at: float,
    horizon: float,
) -> Any:  # noqa: ANN401
    """Return rows with live counts in the first ones, one per state. A row without one is aged only if it is `known`
    that there is none, and the stream follows all rows, which are complete up to `horizon`."""
    laid = records.copy()
    for place, packed in enumerate(states):
        row, live = laid[place], counts_in(packed)
        if live is not None and live.as_of > row["as_of"]:
            counts, as_of, is_followed = (live.impressions, live.clicks), live.as_of, True
        else:
            counts, as_of = (float(row["impressions"]), float(row["clicks"])), float(row["as_of"])
            is_followed = stream.covers(horizon) and (known is None or known[place])
        complete = max(as_of, stream.reached(at)) if is_followed else as_of
        fade = float(np.exp2(-(complete - as_of) / half_life_s))
        row["impressions"], row["clicks"], row["as_of"] = counts[0] * fade, counts[1] * fade, complete
    return laid


def half_lives(schema: Schema) -> Mapping[str, float]:
    """Return the half-life of each side's counts; a side that no model reads has the other's, or 30 days."""
    own = {side: float(state["half_life_s"]) for side in ("user", "item") if (state := schema.only(side, "state"))}
    some = next(iter(own.values()), 30 * 86_400.0)
    return {side: own.get(side, some) for side in ("user", "item")}
