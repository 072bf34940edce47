"""Live state of a user or an item: its row's state, and the events since. It belongs to the ID and outlives any
bundle's rows.

Does not know where states are kept, nor where events come from; `state.fold` defines how an event changes a state.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.rows import MAX_COUNT
from msd.contract.schema import MAX_HISTORY, MAX_ID_CHARS
from msd.contract.state import EntityState, Event, Impression, StateRule, fold

STATE_FORMAT = 2
_HEAD = struct.Struct("<Bdddd")
_IMPRESSION = struct.Struct("<dffH")
_HEADS = np.dtype([("format", "u1"), ("impressions", "<f8"), ("clicks", "<f8"), ("as_of", "<f8"), ("watermark", "<f8")])
_NOTHING_YET = -1.0
MAX_STATE_BYTES = _HEAD.size + MAX_HISTORY * (_IMPRESSION.size + 4 * MAX_ID_CHARS)
"""Of a packed state; a longer value is not read."""


class LiveState(NamedTuple):
    """A state, and its watermark (Unix s): events up to then are in the row that it started from."""

    state: EntityState
    watermark: float


def begin(impressions: float, clicks: float, as_of: float, history: Sequence[Impression] = ()) -> LiveState:
    """Return the state of a row. Its history is in whole seconds, so that the order may have to be made again."""
    return LiveState(EntityState(impressions, clicks, as_of, tuple(sorted(history))), as_of)


NOTHING = LiveState(EntityState(as_of=_NOTHING_YET), _NOTHING_YET)
"""The state of an ID without a row: every event is new."""


def current(live: LiveState | None, row: LiveState) -> LiveState:
    """Return the state to continue from: the state, or the row if it is newer, and so includes everything in the
    state."""
    return row if live is None or row.state.as_of >= live.state.as_of else live


def take(rule: StateRule, live: LiveState, event: Event) -> LiveState:
    """Return the state after one more event; an event that the row includes changes nothing."""
    if event.at <= live.watermark:
        return live
    return LiveState(fold(rule, live.state, event), live.watermark)


def pack_state(live: LiveState) -> bytes:
    """Pack format, counts, as_of, watermark; then the history, of each impression its time, the numbers of impressions
    and clicks, the length of its ID, its ID in UTF-8."""
    state = live.state
    head = _HEAD.pack(STATE_FORMAT, state.impressions, state.clicks, state.as_of, live.watermark)
    if not state.history:
        return head
    parts = [head]
    for at, item_id, shown, clicked in state.history:
        encoded = item_id.encode()
        parts += (_IMPRESSION.pack(at, shown, clicked, len(encoded)), encoded)
    return b"".join(parts)


def unpack_state(packed: bytes | None) -> LiveState | None:
    """Unpack a state; None for None, and for invalid bytes."""
    if packed is None or not is_usable(packed):
        return None
    _, impressions, clicks, as_of, watermark = _HEAD.unpack_from(packed)
    try:
        history = _history(packed)
    except (struct.error, UnicodeDecodeError):
        return None
    return LiveState(EntityState(impressions, clicks, as_of, history), watermark)


def _history(packed: bytes) -> tuple[Impression, ...]:
    history: list[Impression] = []
    place, end = _HEAD.size, len(packed)
    while place < end:
        at, shown, clicked, length = _IMPRESSION.unpack_from(packed, place)
        start = place + _IMPRESSION.size
        place = start + length
        if place > end or not (math.isfinite(at) and 0 <= shown <= MAX_COUNT and 0 <= clicked <= MAX_COUNT):
            raise struct.error("an impression ends behind the state's end, or holds invalid numbers")
        if len(history) == MAX_HISTORY:
            raise struct.error("a history has more impressions than a state may have")
        history.append(Impression(at, packed[start:place].decode(), shown, clicked))
    return tuple(history)


class Head(NamedTuple):
    """The head of a packed state."""

    impressions: float
    clicks: float
    as_of: float
    watermark: float

    @property
    def is_rowless(self) -> bool:
        """Return whether the state did not start from a row."""
        return self.watermark == _NOTHING_YET


def head_of(packed: bytes) -> Head | None:
    """Return the head of a packed state; None if it is invalid."""
    return Head(*_HEAD.unpack_from(packed)[1:]) if is_usable(packed) else None


def is_usable(packed: bytes) -> bool:
    """Return whether the head of a packed state is valid: its format, counts and times."""
    if not _HEAD.size <= len(packed) <= MAX_STATE_BYTES or packed[0] != STATE_FORMAT:
        return False
    numbers = _HEAD.unpack_from(packed)[1:]
    # A non-finite number makes the sum non-finite.
    return math.isfinite(sum(numbers)) and min(numbers[:2]) >= 0.0 and max(numbers[:2]) <= MAX_COUNT


class LiveCounts(NamedTuple):
    """Counts of n IDs, complete up to `as_of`: [n] each, 0 where `found` [n] is false."""

    impressions: NDArray[np.float64]
    clicks: NDArray[np.float64]
    as_of: NDArray[np.float64]
    found: NDArray[np.bool_]


def unpack_counts(packed: Sequence[bytes | None]) -> LiveCounts:
    """Return the counts of packed states, None if there is none; invalid ones count as none. Histories are left out."""
    size, nothing = _HEAD.size, bytes(_HEAD.size)
    heads = np.frombuffer(
        b"".join([state[:size] if state and size <= len(state) <= MAX_STATE_BYTES else nothing for state in packed]),
        _HEADS,
    )
    counts = [heads[name].astype(np.float64) for name in ("impressions", "clicks", "as_of")]
    with np.errstate(invalid="ignore"):
        found = heads["format"] == STATE_FORMAT
        for count in counts[:2]:
            found &= (count >= 0) & (count <= MAX_COUNT)
        found &= np.isfinite(counts[0] + counts[1] + counts[2] + heads["watermark"])
    impressions, clicks, as_of = (np.where(found, count, 0.0) for count in counts)
    return LiveCounts(impressions, clicks, as_of, found)
