"""Folders of LMDB files, which several processes may have open; each once."""

import os
import sys
from pathlib import Path

import lmdb

_MAX_READERS = 1_024
_LOCK_BYTES = 64 * (_MAX_READERS + 64)  # of readers, and what is before them


def open_folder(folder: Path, max_bytes: int, max_dbs: int) -> lmdb.Environment:
    """Open or make a folder. Raises lmdb.Error, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _take_room(folder / "lock.mdb", _LOCK_BYTES)
    opened = lmdb.open(
        bytes(folder), map_size=max_bytes, max_dbs=max_dbs, max_readers=_MAX_READERS, mode=0o600, readahead=False
    )
    opened.reader_check()  # frees the slots of readers that were killed
    return opened


def _take_room(path: Path, size: int) -> None:
    """Allocate a file that LMDB maps: on a full disk, a write to a hole in it would end the process. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)
