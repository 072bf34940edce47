"""The bundle published in Redis, by the pointers that `msd publish` sets, and its folder."""

import json
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import cast

import structlog
from redis import Redis

from msd.contract.bundle import MANIFEST
from msd.contract.files import open_regular
from service.deployment.bundle_folder import CURRENT, SourceError, read_pointer
from service.redis.keys import POINTER, PREVIOUS, rows_key
from service.redis.publication import CLIENT_ERRORS, connect, get_all, publication, set_all
from service.redis.redis_url import parse_redis_url

_MAX_MANIFEST_BYTES = 64 * 2**20
_TIMEOUT_S = 2.0
# Errors of a server, of a connection, or of an invalid option.
_ERRORS: tuple[type[Exception], ...] = (*CLIENT_ERRORS, TypeError, ValueError)


class PublishedBundle:
    """The bundle whose rows are published in Redis, in a folder of bundles."""

    def __init__(self, url: str) -> None:
        self._url = parse_redis_url(url)
        self._redis: Redis | None = None
        self._last: str | None = None
        self._has_logged = False
        self._log = structlog.get_logger("msd.follower")

    def bundle(self, folder: Path) -> Path:
        """Return its folder; while Redis is unreachable, the last one, or that of the folder's own pointer.

        Raises SourceError if the folder lacks the bundle.
        """
        try:
            self._last = self.read()
        except SourceError as error:
            if self._last is None:
                return self._instead(folder, error)
        return _find(folder, self._last)

    def read(self) -> str:
        """Return the published bundle's ID, over a kept connection. Every failure is a SourceError."""
        address = self._url.address
        try:
            self._redis = self._redis or connect(self._url, _TIMEOUT_S)
            found = cast("bytes | None", self._redis.get(POINTER))
        except _ERRORS as error:
            raise SourceError(f"Redis at {address}: {type(error).__name__}: {error}") from error
        if found is None:
            raise SourceError(f"Redis at {address}: no bundle is published; run `msd publish BUNDLE --redis URL`")
        return found.decode("ascii", "replace")

    def _instead(self, folder: Path, error: SourceError) -> Path:
        if not os.path.lexists(folder / CURRENT):
            raise SourceError(f"{error}; and {folder} has no pointer `{CURRENT}`") from error
        if not self._has_logged:
            self._has_logged = True
            self._log.warning("pointer_unknown", reason=str(error), instead=str(folder / CURRENT))
        return read_pointer(folder / CURRENT)


def _find(folder: Path, bundle_id: str) -> Path:
    """Return the folder of the bundle with this ID; of several, the newest. Raises SourceError if there is none."""
    found = []
    for path in folder.glob(f"[!.]*/{MANIFEST}"):
        if not path.parent.is_symlink():
            with suppress(OSError):
                about = path.stat()
                number, created_at = _read_identity(path, about.st_size, about.st_ino, about.st_mtime_ns)
                if number == bundle_id:
                    found.append((created_at, path.parent.name, path.parent))
    if not found:
        raise SourceError(f"Redis points to bundle {bundle_id[:32]}, which is not in {folder}: copy it there")
    return max(found)[2].resolve()


@lru_cache(256)
def _read_identity(path: Path, size: int, inode: int, changed_ns: int) -> tuple[str, float]:
    """Return a manifest's bundle ID and creation time; empty if it is invalid. Cached until the file changes."""
    try:
        if size > _MAX_MANIFEST_BYTES:
            return "", 0.0
        with os.fdopen(open_regular(path), "rb") as file:
            document = json.loads(file.read())
        return str(document["bundle_id"]), float(document["created_at"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return "", 0.0


def roll_back_redis(url: str) -> str:
    """Exchange the pointers to the current and the previous bundle atomically, and return the new current number.

    Raises SourceError if there is no previous bundle, or not all of its rows, and PublishError if Redis fails.
    """
    with publication(url) as running:
        current, previous = get_all(running.redis, [POINTER, PREVIOUS])
        if current is None or previous is None:
            raise SourceError(f"Redis at {running.address}: has no previous bundle to roll back to")
        if current == previous:  # a publication was killed between the two
            raise SourceError(f"Redis at {running.address}: the previous bundle is the current one already")
        if running.redis.get(rows_key(previous.decode())) is None:
            raise SourceError(
                f"Redis at {running.address}: does not hold all rows of the previous bundle {previous.decode()};"
                " publish it again"
            )
        with running.redis.pipeline(transaction=False) as pipeline:
            # Atomic except in a cluster, where they are on different nodes: there the pointer moves first.
            set_all(running.redis, pipeline, {POINTER.encode(): previous, PREVIOUS.encode(): current})
            pipeline.execute()
        return previous.decode()
