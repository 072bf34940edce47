"""Memory for a file's blocks, of this process alone or shared with those that inherit its descriptor.

It takes room only where it is touched. Does not know what it holds, but for the tag that tells whose it is.
"""

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

_SEALED = 0x0001 | 0x0002 | 0x0004  # Linux: no other seals, never shorter, never longer


def new_memory(size: int, tag: bytes) -> int:
    """A descriptor of `size` bytes that processes can share, for contents that `tag` names; Linux only.

    Nobody can make it shorter, so that no process dies of touching it.
    """
    descriptor = os.memfd_create("msd-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size + len(tag))
    os.pwrite(descriptor, tag, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALED)
    return descriptor


def open_memory(size: int, tag: bytes, shared: int | None) -> tuple[NDArray[np.uint8], bool]:
    """[size] bytes, and whether they are those of the descriptor `shared`; they are not if it is of another tag."""
    if shared is not None and _is_ours(shared, size, tag):
        return np.frombuffer(mmap.mmap(shared, size + len(tag)), np.uint8)[:size], True
    if not hasattr(os, "memfd_create"):  # not Linux
        return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size], False
    # Not anonymous memory: the kernel may refuse more of that than the machine has, or fill it by huge pages.
    descriptor = new_memory(size, tag)
    try:
        return np.frombuffer(mmap.mmap(descriptor, size + len(tag)), np.uint8)[:size], False
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int, size: int, tag: bytes) -> bool:
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALED == _SEALED
        return (
            sealed and os.fstat(descriptor).st_size == size + len(tag) and os.pread(descriptor, len(tag), size) == tag
        )
    except OSError:
        return False
