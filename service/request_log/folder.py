"""Where the log's files are: a folder of one writer at a time, bounded in bytes and age, whose oldest files go first.

Does not know what is in the files.
"""

import fcntl
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from msd.contract.errors import MsdError
from msd.contract.files import write_bytes_atomic
from msd.contract.log import EVENTS, REQUESTS

_LOCK = ".lock"
_KINDS = (REQUESTS, EVENTS)


class LogFolderError(MsdError):
    """The folder cannot be used."""


class LogFolder:
    """The folder, from its opening until the process ends. Files appear whole or not at all."""

    def __init__(self, path: Path, max_bytes: int, max_age_s: float) -> None:
        """Makes the folder, takes it for this process, and removes what an earlier one left half-written.

        Raises LogFolderError when it cannot be made, or is another writer's.
        """
        self._path = path
        self.max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._last_ns = 0
        try:
            path.mkdir(0o750, parents=True, exist_ok=True)
            self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise LogFolderError(f"{path}: cannot hold the request log: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise LogFolderError(f"{path}: another service writes its log here; give each its own folder") from None
        for kind in _KINDS:
            for half in path.glob(f".{kind}-*.parquet.*"):
                half.unlink(missing_ok=True)

    def close(self) -> None:
        """Leaves the folder to the next."""
        os.close(self._lock)

    def add(self, kind: str, data: bytes | memoryview) -> None:
        """Writes one file, once the oldest have made room for it. Raises OSError, or LogFolderError where it is larger
        than all may be together."""
        if len(data) > self.max_bytes:
            raise LogFolderError(f"{len(data)} bytes at once are more than the {self.max_bytes} that the log may take")
        self.prune(len(data))
        write_bytes_atomic(self._path / f"{kind}-{self._moment()}.parquet", data)

    def prune(self, room: int = 0) -> None:
        """Removes files that are too old, and the oldest until there is `room`."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        oldest = time.time() - self._max_age_s
        for changed_at, size, file in files:
            if changed_at >= oldest and total + room <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size

    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each was written, its bytes and its path, the oldest first."""
        found = []
        for kind in _KINDS:
            for file in self._path.glob(f"{kind}-*.parquet"):
                with suppress(FileNotFoundError):
                    status = os.stat(file)
                    found.append((status.st_mtime, status.st_size, file))
        return sorted(found)

    def _moment(self) -> str:
        """Now, in a form that sorts, and never twice."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1_000)
        return f"{datetime.fromtimestamp(self._last_ns / 1e9, UTC):%Y%m%dT%H%M%S.%f}Z"
