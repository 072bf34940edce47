"""Files that are either whole or absent: written under a temporary name, synced, then renamed; their hashes; and
folders that do not outlive their process.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape as glob_escape
from pathlib import Path
from typing import BinaryIO

from msd.contract.errors import MsdError

_CHUNK = 2**22
# Prefix of folders that may be removed once their lock is free: no other folder has it.
_OWNED = ".owned"


@contextmanager
def atomic_file(path: Path, mark: str = "") -> Iterator[BinaryIO]:
    """Open a file for writing that gets the name `path` only if the block ends without an error.

    `mark` begins the suffix of its temporary name, so that leftovers of a killed process can be removed. A device or a
    pipe, such as /dev/stdout, is written directly: it has no content to replace. Raises OSError for a pipe without a
    reader.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        # With this flag a pipe without a reader is an error; otherwise opening would block.
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(descriptor, True)
        with os.fdopen(descriptor, "wb") as device:
            yield device
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.{mark}", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes_atomic(path: Path, data: bytes | memoryview) -> None:
    with atomic_file(path) as file:
        file.write(data)


def write_text_atomic(path: Path, text: str) -> None:
    write_bytes_atomic(path, text.encode("utf-8"))


def open_regular(path: Path) -> int:
    """Open a regular file for reading, and return its descriptor. Raises OSError, also for a pipe, which would block
    without a writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def sha256_file(path: Path, pause: Callable[[], object] = lambda: None) -> str:
    """Return the SHA-256 of a file in hexadecimal. `pause` is called after each 4 MiB."""
    found, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
            pause()
    return found.hexdigest()


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new folder in `parent`, removed at the block's end.

    Leftovers of killed processes with the same prefix are removed first: an owner holds a lock on its folder, which
    ends with its process.
    """
    for left in parent.glob(f"{glob_escape(prefix)}????????{_OWNED}"):
        _remove_if_abandoned(left)
    folder, descriptor = _new_owned_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def held_folder(folder: Path, taken: MsdError) -> Iterator[None]:
    """Make a folder, and hold its lock, which ends with the process. Raises `taken` if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise taken from None
        yield
    finally:
        os.close(descriptor)


def _new_owned_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(_OWNED, prefix, parent))
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another cleanup removed it
            continue
        with suppress(OSError):  # without folder locks, none counts as abandoned
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, descriptor
        os.close(descriptor)


def _remove_if_abandoned(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # another user's, or gone by now
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def read_small(path: Path, limit: int, refused: type[MsdError], advice: str = "") -> bytes:
    """Read a file of limited size. Raises `refused`, with the advice if the file cannot be read."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise refused(f"{path}: {error.strerror or error}{advice}") from None
    if len(content) > limit:
        raise refused(f"{path}: larger than {limit} bytes")
    return content
