"""The bundle published in Redis, by the pointers that `msd publish` sets, and its folder."""

import json
import os
from pathlib import Path
from typing import cast

import structlog
from redis import Redis

from msd.contract.bundle import MANIFEST
from service.deployment.bundle_folder import CURRENT, SourceError, read_pointer
from service.redis.keys import POINTER, PREVIOUS, rows_key
from service.redis.publication import CLIENT_ERRORS, connect, get_all, publication, set_all
from service.redis.redis_url import parse_redis_url
from service.settings import Settings

_MAX_MANIFEST_BYTES = 64 * 2**20
_TIMEOUT_S = 2.0
# Errors of a server, of a connection, or of an invalid option.
_ERRORS: tuple[type[Exception], ...] = (*CLIENT_ERRORS, TypeError, ValueError)


class RedisPointer:
    """Reads the published bundle's number over a kept connection. Every failure is a SourceError."""

    def __init__(self, url: str) -> None:
        self._url = parse_redis_url(url)
        self._redis: Redis | None = None

    def read(self) -> str:
        """Return the number of the bundle."""
        address = self._url.address
        try:
            self._redis = self._redis or connect(self._url, _TIMEOUT_S)
            found = cast("bytes | None", self._redis.get(POINTER))
        except _ERRORS as error:
            raise SourceError(f"Redis at {address}: {type(error).__name__}: {error}") from error
        if found is None:
            raise SourceError(f"Redis at {address}: no bundle is published; run `msd publish BUNDLE --redis URL`")
        return found.decode("ascii", "replace")


class Numbered:
    """Finds bundles in a folder by their numbers, and caches what it has read."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], tuple[str, float]] = {}

    def find(self, folder: Path, bundle_id: str) -> Path:
        """Return the bundle's folder; of several, the newest. Raises SourceError if there is none."""
        found = [
            (created_at, path.parent.name, path.parent)
            for path in folder.glob(f"[!.]*/{MANIFEST}")
            if not path.parent.is_symlink()
            for number, created_at in [self._number(path)]
            if number == bundle_id
        ]
        if not found:
            raise SourceError(f"Redis points to bundle {bundle_id[:32]}, which is not in {folder}: copy it there")
        return max(found)[2].resolve()

    def _number(self, path: Path) -> tuple[str, float]:
        """Return a manifest's number and creation time; None if it is invalid."""
        try:
            about = path.stat()
            key = (path, about.st_ino, about.st_mtime_ns)
            if key not in self._known:
                if about.st_size > _MAX_MANIFEST_BYTES:
                    return "", 0.0
                document = json.loads(path.read_text("utf-8"))
                self._known = {one: value for one, value in self._known.items() if one[0] != path}
                self._known[key] = str(document["bundle_id"]), float(document["created_at"])
            return self._known[key]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return "", 0.0


class PublishedBundle:
    """The bundle whose rows are published in Redis, in a folder of bundles."""

    def __init__(self, settings: Settings) -> None:
        assert settings.redis_url is not None, "settings with a Redis store have its address"
        self._pointer = RedisPointer(settings.redis_url.get_secret_value())
        self._numbered = Numbered()
        self._last: str | None = None
        self._has_said = False
        self._log = structlog.get_logger("msd.follower")

    def bundle(self, folder: Path) -> Path:
        """Return its folder; while Redis is unreachable, the last one, or that of the folder's own pointer.

        Raises SourceError if the folder lacks the bundle.
        """
        try:
            number = self._last = self._pointer.read()
        except SourceError as error:
            if self._last is None:
                return self._instead(folder, error)
            number = self._last
        return self._numbered.find(folder, number)

    def _instead(self, folder: Path, error: SourceError) -> Path:
        if not os.path.lexists(folder / CURRENT):
            raise SourceError(f"{error}; and {folder} has no pointer `{CURRENT}`") from error
        if not self._has_said:
            self._has_said = True
            self._log.warning("pointer_unknown", reason=str(error), instead=str(folder / CURRENT))
        return read_pointer(folder / CURRENT)


def roll_back_redis(url: str) -> str:
    """Exchange the pointers to the current and the previous bundle atomically, and return the new current number.

    Raises SourceError if there is no previous bundle, or not all of its rows, and PublishError if Redis fails.
    """
    with publication(url) as running:
        current, previous = get_all(running.redis, [POINTER, PREVIOUS])
        if current is None or previous is None:
            raise SourceError(f"Redis at {running.address}: has no previous bundle to roll back to")
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
