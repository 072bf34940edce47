"""Index from IDs to row places: open addressing over a seeded 64-bit hash, for all IDs of a request at once.

IDs are UTF-8 without NUL, padded with zeros to one width: the longest plus at least a byte. A slot holds half of the
hash and the place; the caller must verify the ID itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.checked_file import Section
from msd.contract.errors import BundleError
from msd.contract.schema import MAX_ID_CHARS

Words = NDArray[np.uint64]
Places = NDArray[np.int64]
AreAt = Callable[[Places, Places], NDArray[np.bool_]]
"""Returns for requested IDs, by number [k], whether each is the one at a place [k]."""

_LOAD = 0.55
_CHUNK = 65_536
WINDOW = 8
WORD = 8
_PLACE = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xC4CEB9FE1A85EC53)


class BuiltIndex(NamedTuple):
    """order [n]: the row of each place. slots: place + 1 in the lower half, hash in the upper; 0 is empty. seed: of the
    hash. homes: how many slots an id's search can begin at; those beyond take the overflow of the last."""

    order: Places
    slots: Words
    homes: int
    seed: int


def id_width(ids: Sequence[str]) -> int:
    """Return the padded width of IDs. Raises BundleError for an ID that no request can have."""
    longest = 0
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        if len(one := max(some, key=len)) > MAX_ID_CHARS:
            raise BundleError(f"the id {one[:40]!r}… has {len(one)} characters; {MAX_ID_CHARS} are allowed")
        joined = "".join(some)
        if "\0" in joined:
            raise BundleError(f"the id {next(one for one in some if chr(0) in one)[:40]!r} holds a NUL character")
        longest = max(longest, len(one) if joined.isascii() else max(len(one.encode()) for one in some))
    return WORD * (longest // WORD + 1)


def encode_ids(ids: Sequence[str], width: int) -> Words:
    """Return IDs as words [n, width / 8]. A longer one is truncated: unlike others', its last byte is not zero."""
    try:
        fixed = np.asarray(ids, f"S{width}")
    except UnicodeEncodeError:
        fixed = np.asarray([id_.encode() for id_ in ids], f"S{width}")
    return fixed.view("<u8").reshape(len(ids), width // WORD)


def hash_ids(ids: Words, seed: int) -> Words:
    """Return a hash [n] of each ID's words [n, W]."""
    hashes: Words = np.full(len(ids), seed, np.uint64)
    for column in ids.T:
        hashes ^= column
        hashes *= _MULTIPLIER
        hashes ^= hashes >> _HALF
    hashes *= _MIX
    hashes ^= hashes >> _HALF
    return hashes


def hash_all(ids: Sequence[str], width: int, seed: int) -> Words:
    """Return hashes [n] of many IDs."""
    hashes = np.zeros(len(ids), np.uint64)
    for start in range(0, len(ids), _CHUNK):
        hashes[start : start + _CHUNK] = hash_ids(encode_ids(ids[start : start + _CHUNK], width), seed)
    return hashes


def build_index(hashes: Words, seed: int) -> BuiltIndex:
    """Build the index of unique IDs, of fewer than 2³² rows, from their hashes of this seed [n]."""
    rows = len(hashes)
    homes = max(1, int(rows / _LOAD))
    home = (hashes % np.uint64(homes)).astype(np.int64)
    order = np.lexsort((hashes, home))
    places = np.arange(rows)
    # Linear probing, in the order of homes: each row takes its home, or the first slot after the row before it.
    slot = np.maximum.accumulate(home[order] - places) + places
    last = int(slot[-1]) if rows else 0
    # Enough empty slots at the end that a window or a search never leaves them.
    slots = np.zeros(max(homes, last + 1) + WINDOW, np.uint64)
    slots[slot] = hashes[order] >> _HALF << _HALF | (places + 1).astype(np.uint64)
    return BuiltIndex(order, slots, homes, seed)


class IdIndex:
    """Looks IDs up in the slots of `build_index`."""

    def __init__(self, slots: Section, homes: int, seed: int) -> None:
        self._section = slots
        words = slots.bytes.view("<u8")
        # The slots from each one on, as one value, read at once.
        self._windows = np.ndarray((len(words) - WINDOW + 1,), f"V{WINDOW * WORD}", words, strides=(WORD,))
        self._homes, self._seed = np.uint64(homes), seed

    def find(self, ids: Words, are_at: AreAt) -> Places:
        """Return the place of each ID [n], −1 if absent; `are_at` verifies probable places."""
        hashes = hash_ids(ids, self._seed)
        at = (hashes % self._homes).view(np.int64)
        places = np.full(len(at), -1, np.int64)
        rows = np.arange(len(at))
        while len(rows):
            self._section.prove(WORD * at, WORD * (at + WINDOW))
            window_NW = self._windows[at].view("<u8").reshape(len(at), WINDOW)
            alike_NW = ((window_NW ^ hashes[rows, None]) <= _PLACE) & (window_NW != 0)
            column, own = alike_NW.argmax(1), np.arange(len(at))
            hit = alike_NW[own, column]
            found = (window_NW[own, column] & _PLACE).astype(np.int64) - 1
            right = hit.copy()
            right[hit] = are_at(rows[hit], found[hit])
            places[rows[right]] = found[right]
            # A search continues behind an ID with a similar hash, and ends at the first empty slot.
            on = ~right & (hit | (window_NW != 0).all(1))
            rows, at = rows[on], (at + np.where(hit, column + 1, WINDOW))[on]
        return places
