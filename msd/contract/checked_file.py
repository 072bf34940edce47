"""Sections of a file whose blocks are read, and verified by checksum, on first use.

The file is never mapped: whatever happens to it later, verified bytes stay, and others are an error. Does not know the
sections' content.
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
    """Position of a section, relative to the first section."""

    start: int
    size: int


class OpenFile:
    """A file that stays open while this object lives. Raises BundleError, naming the path."""

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
        """Read at most `size` bytes from offset `start`; fewer at the end of the file."""
        parts, left = [], size
        try:
            while left and (part := os.pread(self.descriptor, left, start + size - left)):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror or error}") from error
        return b"".join(parts)


class CheckedFile:
    """The sections from offset `base` on, `size` bytes of them, followed by one checksum per block.

    Memory is used only for touched blocks. For any thread.
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
        self.body = lazy_memory(size)

    def section(self, place: SectionPlace) -> "Section":
        return Section(self, place, self.body[place.start : place.start + place.size])

    @property
    def descriptor(self) -> int:
        """The file's descriptor, while this object lives."""
        return self._file.descriptor

    def prove(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Verify all blocks that bytes [start, stop) touch, for n > 0 such spans. An empty span counts as the byte
        before it, if there is one.

        Raises BundleError if one is damaged.
        """
        if not self._unproved:
            return
        first, last = starts >> _BLOCK_BITS, (stops - 1) >> _BLOCK_BITS
        if (last - first).max() <= 1 and (self.proved[first] & self.proved[last]).all():
            return
        for one, end in set(zip(first.tolist(), last.tolist(), strict=True)):
            for block in range(one, end + 1):
                self._prove_block(block)

    def _prove_block(self, block: int) -> None:
        if self.proved[block]:
            return
        place = self.body[block * BLOCK : (block + 1) * BLOCK]
        content = self._file.read(self.base + block * BLOCK, len(place))
        if len(content) != len(place) or zlib.crc32(content) != self.checksums[block]:
            raise BundleError(f"{self._file.path}: block {block} is damaged; copy the bundle again")
        with self._lock:
            # Counted once, by the first thread: at 0 nothing is left to verify.
            if not self.proved[block]:
                place[:] = np.frombuffer(content, np.uint8)
                self.proved[block] = True
                self._unproved -= 1


class Section:
    """One section. `bytes` may be read after `prove`."""

    def __init__(self, file: CheckedFile, place: SectionPlace, content: NDArray[np.uint8]) -> None:
        self._file, self._start, self.bytes = file, place.start, content

    def prove(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """As `CheckedFile.prove`, for spans [n] relative to the section."""
        if len(starts):
            self._file.prove(self._start + starts, self._start + stops)


def lazy_memory(size: int) -> NDArray[np.uint8]:
    """Return [size] bytes that use memory only where they are touched."""
    if not hasattr(os, "memfd_create"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size]
    # Not anonymous memory: the kernel may refuse more of that than the machine has, or fill it with huge pages.
    descriptor = os.memfd_create("msd-rows", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, max(1, size))
        return np.frombuffer(mmap.mmap(descriptor, max(1, size)), np.uint8)[:size]
    finally:
        os.close(descriptor)
