"""Index from IDs to row places, for all IDs of a request at once.

Rows lie in the order of a hash's remainder, and the index says where those of each remainder begin. IDs are UTF-8
without NUL, padded with zeros to one width: the longest plus at least a byte. The caller must compare the IDs.
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

_PER_BUCKET = 2
_CHUNK = 65_536
WORD = 8
START = np.dtype("<u4")
_HALF = np.uint64(32)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xC4CEB9FE1A85EC53)


class BuiltIndex(NamedTuple):
    """order [n]: the row of each place. starts [buckets + 1]: the first place of each bucket, and the end of the last.
    seed: of the hash."""

    order: Places
    starts: NDArray[np.uint32]
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
    # Odd, so that what follows the starts is aligned to eight bytes.
    buckets = len(hashes) // _PER_BUCKET | 1
    own = hashes % np.uint64(buckets)
    starts = np.zeros(buckets + 1, START)
    np.cumsum(np.bincount(own.view(np.int64), minlength=buckets), dtype=START, out=starts[1:])
    return BuiltIndex(np.lexsort((hashes, own)), starts, seed)


class IdIndex:
    """Looks IDs up in the starts of `build_index`."""

    def __init__(self, starts: Section, seed: int) -> None:
        self._section, self._seed = starts, seed
        self._starts = starts.bytes.view(START)

    def find(self, ids: Words, are_at: AreAt) -> Places:
        """Return the place of each ID [n], −1 if absent; `are_at` compares those of its bucket."""
        buckets = (hash_ids(ids, self._seed) % np.uint64(len(self._starts) - 1)).view(np.int64)
        self._section.prove(START.itemsize * buckets, START.itemsize * (buckets + 2))
        first, end = self._starts[buckets].astype(np.int64), self._starts[buckets + 1].astype(np.int64)
        rows = np.repeat(np.arange(len(ids)), end - first)
        at = np.arange(len(rows)) + np.repeat(end - np.cumsum(end - first), end - first)
        right = are_at(rows, at)
        places = np.full(len(ids), -1, np.int64)
        places[rows[right]] = at[right]
        return places
