"""Files that are either whole or absent: written under a temporary name, synced, then renamed; and their hashes."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msd.contract.errors import MsdError


@contextmanager
def atomic_file(path: Path, mark: str = "") -> Iterator[BinaryIO]:
    """Opens a file for writing that takes the name `path` only if the block ends without an error.

    `mark` begins the ending of its temporary name, so that who knows it can remove what a killed process has left.
    """
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
    """Replaces `path` with `data` in one step."""
    with atomic_file(path) as file:
        file.write(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Replaces `path` with `text`, UTF-8, in one step."""
    write_bytes_atomic(path, text.encode("utf-8"))


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path, limit: int, refused: type[MsdError], advice: str = "") -> bytes:
    """All of a file of at most so many bytes. Raises `refused`, with the advice where the file cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise refused(f"{path}: {error.strerror or error}{advice}") from None
    if len(content) > limit:
        raise refused(f"{path}: larger than {limit} bytes")
    return content
