"""Sections of a file, each block of which is read, and proved by its checksum, when it is first touched.

The file is never mapped: whatever becomes of it later, what was proved stays, and what was not is an error. Does not
know what the sections hold.
"""

import mmap
import os
import threading
import weakref
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.errors import BundleError

_BLOCK_BITS = 12
BLOCK = 1 << _BLOCK_BITS


class SectionPlace(NamedTuple):
    """Where a section is, counted from the first section's first byte."""

    start: int
    size: int


class OpenFile:
    """A file that is open for as long as somebody has this object. Raises BundleError, naming the path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self.descriptor)
            about = os.fstat(self.descriptor)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error
        self.size = about.st_size

    def read(self, start: int, size: int) -> bytes:
        """At most `size` bytes from byte `start` on; fewer where the file ends."""
        parts, left = [], size
        try:
            while left and (part := os.pread(self.descriptor, left, start + size - left)):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror or error}") from error
        return b"".join(parts)


class CheckedFile:
    """The sections from byte `base` on, `size` bytes of them, and behind them their checksums, one a block.

    Memory is taken only for blocks that are touched. Any thread may read.
    """

    def __init__(self, file: OpenFile, base: int, size: int) -> None:
        self._file, self.base = file, base
        sums = file.read(base + size, 4 * -(-size // BLOCK))
        self.checksums = np.frombuffer(sums, "<u4")
        self.proved = np.zeros(-(-size // BLOCK), bool)
        self._unproved = len(self.proved)
        if len(self.checksums) != len(self.proved):
            raise BundleError(f"{file.path}: the file is truncated; copy the bundle again")
        self._lock = threading.Lock()
        self.body = _lazy_memory(size)

    def section(self, place: SectionPlace) -> "Section":
        """A part of the file to read from."""
        return Section(self, place, self.body[place.start : place.start + place.size])

    @property
    def descriptor(self) -> int:
        """Of the file, while this is there."""
        return self._file.descriptor

    def prove(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Raises BundleError if a block is damaged that bytes [start, stop) touch, for any of n such spans, n > 0.

        An empty span counts as the byte before it, if there is one.
        """
        if not self._unproved:
            return
        first, last = starts >> _BLOCK_BITS, (stops - 1) >> _BLOCK_BITS
        if (last - first).max() <= 1 and (self.proved[first] & self.proved[last]).all():
            return
        for one, end in set(zip(first.tolist(), last.tolist(), strict=True)):
            self.prove_blocks(one, end)

    def prove_blocks(self, first: int, last: int) -> None:
        """Raises BundleError if one of these blocks is damaged."""
        for block in range(first, last + 1):
            self._prove_block(block)

    def _prove_block(self, block: int) -> None:
        if self.proved[block]:
            return
        place = self.body[block * BLOCK : (block + 1) * BLOCK]
        content = self._file.read(self.base + block * BLOCK, len(place))
        if len(content) != len(place) or zlib.crc32(content) != self.checksums[block]:
            raise BundleError(f"{self._file.path}: block {block} is damaged; copy the bundle again")
        with self._lock:
            # Counted once, by whichever thread is first: at 0 nobody looks any more. (The native core proves, too, and
            # does not count.)
            if not self.proved[block]:
                place[:] = np.frombuffer(content, np.uint8)
                self.proved[block] = True
                self._unproved -= 1


class Section:
    """One section. `bytes` may be read where `prove` has been."""

    def __init__(self, file: CheckedFile, place: SectionPlace, content: NDArray[np.uint8]) -> None:
        self._file, self._start, self.bytes = file, place.start, content

    def prove(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """As `CheckedFile.prove`, of spans [n] that count from the section's first byte."""
        if len(starts):
            self._file.prove(self._start + starts, self._start + stops)

    def cut(self, start: int, stop: int) -> bytes:
        """Some of its bytes, proved."""
        self._file.prove_blocks((self._start + start) // BLOCK, (self._start + stop - 1) // BLOCK)
        return self.bytes[start:stop].tobytes()


def _lazy_memory(size: int) -> NDArray[np.uint8]:
    """[size] bytes that take room only where they are touched."""
    if not hasattr(os, "memfd_create"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size]
    # Not anonymous memory: the kernel may refuse more of that than the machine has, or fill it by huge pages.
    descriptor = os.memfd_create("msd-rows", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(1, size))
        return np.frombuffer(mmap.mmap(descriptor, max(1, size)), np.uint8)[:size]
    finally:
        os.close(descriptor)
