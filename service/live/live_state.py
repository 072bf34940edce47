"""Live state of a user or an item: its row's state, and the events since. It belongs to the ID and outlives any
bundle's rows.

The native core folds and packs (`native/core/live_state.hpp`). Does not know where states are kept, nor where events
come from.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.rows import MAX_COUNT
from msd.contract.schema import MAX_HISTORY, MAX_ID_CHARS
from native import core
from native.live_state import begin, unpack_state

STATE_FORMAT = 2
_HEAD = struct.Struct("<Bdddd")
_IMPRESSION = struct.Struct("<dffH")
_HEADS = np.dtype([("format", "u1"), ("impressions", "<f8"), ("clicks", "<f8"), ("as_of", "<f8"), ("watermark", "<f8")])
_NOTHING_YET = -1.0
MAX_STATE_BYTES = _HEAD.size + MAX_HISTORY * (_IMPRESSION.size + 4 * MAX_ID_CHARS)
"""Of a packed state; a longer value is not read."""


def resumed(live: "core.LiveState | None", row: bytes | None) -> "core.LiveState":
    """Return the state to continue from: that one, or the packed row's if it is newer, and so includes everything in
    the state; every event is new to an ID without a row. `live`: None if there is none."""
    of_row = unpack_state(row) or begin(0.0, 0.0, _NOTHING_YET)
    return of_row if live is None or of_row.as_of >= live.as_of else live


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
