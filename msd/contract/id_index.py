"""Index from IDs to row places: open addressing over a seeded 64-bit hash, for all IDs of a request at once.

IDs are UTF-8 without NUL, padded with zeros to one width: the longest plus at least a byte. A slot holds half of the
hash and the place; the caller must verify the ID itself.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.checked_file import Section
from msd.contract.errors import BundleError
from msd.contract.schema import MAX_ID_CHARS

Words = NDArray[np.uint64]
Places = NDArray[np.int64]

_LOAD = 0.55
_CHUNK = 65_536
WINDOW = 8
WORD = 8
_PLACE = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xC4CEB9FE1A85EC53)
_ALL_BITS = 2**64 - 1


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


def encode_one(one: str, width: int) -> bytes:
    return one.encode()[:width].ljust(width, b"\0")


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


def hash_one(one: bytes, seed: int) -> int:
    """`hash_ids` of one id, padded."""
    hashed = seed
    for start in range(0, len(one), WORD):
        hashed = (hashed ^ int.from_bytes(one[start : start + WORD], "little")) * int(_MULTIPLIER) & _ALL_BITS
        hashed ^= hashed >> 32
    hashed = hashed * int(_MIX) & _ALL_BITS
    return hashed ^ hashed >> 32


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

    def guess(self, ids: Words) -> Places:
        """Return the probable place of each ID [n]: right if the ID exists and everything read is verified; otherwise
        any number from −1 on.

        Its speed matters: most requests need nothing else.
        """
        hashes = hash_ids(ids, self._seed)
        window_NW = self._window(self._homes_of(hashes))
        alike_NW = (window_NW ^ hashes[:, None]) <= _PLACE
        at_N = np.flatnonzero(alike_NW)
        if len(at_N) != len(ids):  # otherwise it is one of each, or the IDs will not match
            at_N = np.arange(0, alike_NW.size, WINDOW) + alike_NW.argmax(1)
        places: Places = (window_NW.ravel().take(at_N) & _PLACE).view(np.int64) - 1
        return places

    def first(self, ids: Words) -> Places:
        """Return the place of the first slot [n] that may be the ID's, −1 if there is none."""
        hashes = hash_ids(ids, self._seed)
        at = self._homes_of(hashes)
        places = np.full(len(at), -1, np.int64)
        rows = np.arange(len(at))
        while len(rows):
            self._section.prove(WORD * at, WORD * (at + WINDOW))
            window_NW = self._window(at)
            alike_NW = ((window_NW ^ hashes[:, None]) <= _PLACE) & (window_NW != 0)
            column, own = alike_NW.argmax(1), np.arange(len(at))
            hit = alike_NW[own, column]
            places[rows[hit]] = (window_NW[own, column][hit] & _PLACE).astype(np.int64) - 1
            # A search ends at the first empty slot; IDs without one in their window continue.
            on = ~hit & (window_NW != 0).all(1)
            rows, at, hashes = rows[on], at[on] + WINDOW, hashes[on]
        return places

    def all_of(self, one: bytes) -> Iterator[int]:
        """Yield the places of all slots that may be one padded ID's: for IDs whose first slot belongs to another with a
        similar hash, and for single look-ups, for which arrays would cost ten times as much."""
        hashed = hash_one(one, self._seed)
        for slot in count(hashed % int(self._homes)):
            held = int.from_bytes(self._section.cut(WORD * slot, WORD * (slot + 1)), "little")
            if not held:
                return
            if held >> 32 == hashed >> 32:
                yield (held & 0xFFFFFFFF) - 1

    def _window(self, at: Places) -> Words:
        """[n, WINDOW] slots."""
        return self._windows[at].view("<u8").reshape(len(at), WINDOW)

    def _homes_of(self, hashes: Words) -> Places:
        homes: Places = (hashes % self._homes).view(np.int64)
        return homes
