"""From ids to places of rows: open addressing over a seeded 64-bit hash, looked up for all ids of a request at once.

A slot holds half of the hash and the place; that the id itself is the one asked for is for the caller to prove.
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

_LOAD = 0.7
_CHUNK = 65_536
WINDOW = 8
WORD = 8
_PLACE = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_COLUMNS = np.arange(WINDOW)
_FIRST_BYTES = np.array([256**length - 1 for length in range(WORD + 1)], np.uint64)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_ALL_BITS = 2**64 - 1


class EncodedIds(NamedTuple):
    """Ids as UTF-8: lengths [n] in bytes, and the bytes, padded with zeros, as words [n, W]."""

    lengths: NDArray[np.int64]
    words: Words

    def at(self, rows: NDArray[np.int64]) -> "EncodedIds":
        """Some of them [m]."""
        return EncodedIds(self.lengths[rows], self.words[rows])

    def stand(self, content: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[n] whether the content has each id's bytes from its start on. Behind an id there are `WORD` more bytes."""
        words = np.ndarray((len(content) - WORD + 1,), "<u8", content, strides=(1,))
        columns = WORD * np.arange(self.words.shape[1])
        left_NW = self.lengths[:, None] - columns
        # What would lie beyond the content is of an id that has ended, or of one that is longer than what is there.
        at_NW = np.minimum(starts[:, None] + columns, len(words) - 1)
        differs_NW = (words[at_NW] ^ self.words) & _FIRST_BYTES[np.clip(left_NW, 0, WORD)]
        alike: NDArray[np.bool_] = ~differs_NW.any(1)
        return alike


class BuiltIndex(NamedTuple):
    """order [n]: the row of each place. slots: place + 1 in the lower half, hash in the upper; 0 is empty. seed: of the
    hash. homes: how many slots an id's search can begin at; those beyond take the overflow of the last."""

    order: NDArray[np.int64]
    slots: Words
    homes: int
    seed: int


def encode_ids(ids: Sequence[str]) -> EncodedIds:
    """All ids as UTF-8, at once where all are ASCII."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    width = _padded(lengths)
    try:
        fixed = np.asarray(ids, f"S{width}")
    except UnicodeEncodeError:
        encoded = [one.encode() for one in ids]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        width = _padded(lengths)
        fixed = np.asarray(encoded, f"S{width}")
    return EncodedIds(lengths, fixed.view("<u8").reshape(len(ids), width // WORD))


def _padded(lengths: NDArray[np.int64]) -> int:
    return WORD * max(1, -(-int(lengths.max(initial=1)) // WORD))


def hash_ids(ids: EncodedIds, seed: int) -> Words:
    """[n] a hash of an id's bytes and length; what stands beside it does not matter."""
    hashes = (np.uint64(seed) ^ ids.lengths.astype(np.uint64)) * _MULTIPLIER
    for place, column in enumerate(ids.words.T):
        mixed = (hashes ^ column) * _MULTIPLIER
        hashes = np.where(WORD * place < ids.lengths, mixed ^ (mixed >> _HALF), hashes)
    hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX_1
    hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX_2
    finished: Words = hashes ^ (hashes >> _SHIFT)
    return finished


def hash_one(one: bytes, seed: int) -> int:
    """`hash_ids` of one id."""
    hashed = ((seed ^ len(one)) * int(_MULTIPLIER)) & _ALL_BITS
    for start in range(0, len(one), WORD):
        mixed = ((hashed ^ int.from_bytes(one[start : start + WORD], "little")) * int(_MULTIPLIER)) & _ALL_BITS
        hashed = mixed ^ (mixed >> 32)
    hashed = ((hashed ^ (hashed >> 33)) * int(_MIX_1)) & _ALL_BITS
    hashed = ((hashed ^ (hashed >> 33)) * int(_MIX_2)) & _ALL_BITS
    return hashed ^ (hashed >> 33)


def hash_all(ids: Sequence[str], seed: int) -> tuple[Words, NDArray[np.int64]]:
    """[n] hashes of many ids, and [n] their lengths in bytes. Raises BundleError for an id that is too long."""
    hashes, lengths = np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.int64)
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        if len(longest := max(some, key=len)) > MAX_ID_CHARS:
            raise BundleError(f"the id {longest[:40]!r}… has {len(longest)} characters; {MAX_ID_CHARS} are allowed")
        encoded = encode_ids(some)
        hashes[start : start + _CHUNK], lengths[start : start + _CHUNK] = hash_ids(encoded, seed), encoded.lengths
    return hashes, lengths


def build_index(hashes: Words, seed: int) -> BuiltIndex:
    """The index of unique ids, of fewer than 2³² rows, by their hashes of this seed [n]."""
    rows = len(hashes)
    homes = max(1, int(rows / _LOAD))
    home = (hashes % np.uint64(homes)).astype(np.int64)
    order = np.lexsort((hashes, home))
    places = np.arange(rows)
    # Linear probing, in the order of homes: each row takes its home, or the first slot after the row before it.
    slot = np.maximum.accumulate(home[order] - places) + places
    last = int(slot[-1]) if rows else 0
    # So many empty ones at the end that a window of slots, or a search, never leaves them.
    slots = np.zeros(max(homes, last + 1) + WINDOW, np.uint64)
    slots[slot] = _kept(hashes[order]) | (places + 1).astype(np.uint64)
    return BuiltIndex(order, slots, homes, seed)


class IdIndex:
    """Looks ids up in the slots that `build_index` made."""

    def __init__(self, slots: Section, homes: int, seed: int) -> None:
        self._section, self._slots = slots, slots.bytes.view("<u8")
        self._homes, self._seed = np.uint64(homes), seed

    def first(self, ids: EncodedIds) -> Places:
        """[n] the place of the first slot that may be the id's, −1 if there is none."""
        hashes = hash_ids(ids, self._seed)
        at, kept = self._homes_of(hashes), _kept(hashes)
        places = np.full(len(at), -1, np.int64)
        rows = np.arange(len(at))
        while len(rows):
            self._section.prove(WORD * at, WORD * (at + WINDOW))
            window_NW = self._slots[at[:, None] + _COLUMNS]
            alike_NW = (window_NW ^ kept[:, None]) <= _PLACE
            column, own = alike_NW.argmax(1), np.arange(len(at))
            hit = alike_NW[own, column]
            places[rows[hit]] = (window_NW[own, column][hit] & _PLACE).astype(np.int64) - 1
            # A search ends at the first empty slot; of those in whose window there is none, it goes on.
            on = ~hit & (window_NW != 0).all(1)
            rows, at, kept = rows[on], at[on] + WINDOW, kept[on]
        return places

    def all_of(self, one: bytes) -> Iterator[int]:
        """The places of all slots that may be one id's, for where the first is of another whose hash is alike, and for
        an id that is looked up alone, for which arrays would cost ten times as much."""
        hashed = hash_one(one, self._seed)
        kept = hashed >> 32 | 1
        for slot in count(hashed % int(self._homes)):
            held = int.from_bytes(self._section.cut(WORD * slot, WORD * (slot + 1)), "little")
            if not held:
                return
            if held >> 32 == kept:
                yield (held & 0xFFFFFFFF) - 1

    def _homes_of(self, hashes: Words) -> Places:
        homes: Places = (hashes % self._homes).astype(np.int64)
        return homes


def _kept(hashes: Words) -> Words:
    """The part of a hash that a slot holds, never 0."""
    kept: Words = hashes >> _HALF << _HALF | _ONE << _HALF
    return kept
