"""A memory-mapped file of sections, each block of which is proved by its checksum when it is first touched.

Does not know what the sections hold.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.errors import BundleError

BLOCK = 16_384


class Place(NamedTuple):
    """Where a section is, counted from the first section's first byte."""

    start: int
    size: int


def checksums_of(body: bytes) -> bytes:
    """A CRC-32 for every block, in little endian."""
    sums = [zlib.crc32(body[start : start + BLOCK]) for start in range(0, len(body), BLOCK)]
    return np.array(sums, "<u4").tobytes()


class CheckedFile:
    """The sections from byte `base` on, `size` bytes of them, and their checksums at the end of the file."""

    def __init__(self, path: Path, base: int, size: int) -> None:
        whole = np.asarray(np.memmap(path, np.uint8, "r"))  # a plain array: indexing a memmap costs twice as much
        self._path = path
        self._body = whole[base : base + size]
        self._checksums = whole[base + size :].view("<u4")
        self._proved = np.zeros(len(self._checksums), bool)

    def section(self, place: Place) -> "Section":
        """A part of the file to read from."""
        return Section(self, place, self._body[place.start : place.start + place.size])

    def prove(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Raises BundleError if a block is damaged that bytes [start, stop) touch, for any of n such spans, n > 0.

        An empty span counts as the byte before it, if there is one.
        """
        first, last = starts // BLOCK, (stops - 1) // BLOCK
        if (last - first).max() <= 1 and (self._proved[first] & self._proved[last]).all():
            return
        for one, end in set(zip(first.tolist(), last.tolist(), strict=True)):
            for block in range(one, end + 1):
                self._prove_block(block)

    def _prove_block(self, block: int) -> None:
        if not self._proved[block]:
            if zlib.crc32(self._body[block * BLOCK : (block + 1) * BLOCK].tobytes()) != self._checksums[block]:
                raise BundleError(f"{self._path}: block {block} is damaged; copy the bundle again")
            self._proved[block] = True


class Section:
    """One section. `bytes` may be read where `prove` has been."""

    def __init__(self, file: CheckedFile, place: Place, content: NDArray[np.uint8]) -> None:
        self._file, self._start, self.bytes = file, place.start, content

    def prove(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """As `CheckedFile.prove`, of spans [n] that count from the section's first byte."""
        if len(starts):
            self._file.prove(self._start + starts, self._start + stops)

    def cut(self, start: int, stop: int) -> bytes:
        """Some of its bytes, proved."""
        self.prove(np.array([start]), np.array([stop]))
        return self.bytes[start:stop].tobytes()
