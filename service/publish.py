"""Copies a bundle's rows into Redis, proves that they arrived, then points to them.

Every step can be repeated: rows go into the namespace of their bundle, which nobody reads before the pointer is set.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from msd.contract.bundle import ROWS, Bundle, open_bundle
from msd.contract.errors import MsdError
from msd.contract.redis_keys import POINTER, PREVIOUS, key_prefix
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, RowSide
from service.settings import redis_address

_CHUNK = 500
_CHUNKS_IN_FLIGHT = 8
_SAMPLE = 256
_TIMEOUT_S = 10.0
_NAMESPACE = re.compile(rb"^msd:([0-9a-f]{32}):[ui]:")

Progress = Callable[[int, int], None]
"""Called with rows copied so far, and rows in all."""


class PublishError(MsdError):
    """The rows did not get into Redis; the pointer is where it was."""


@dataclass(frozen=True)
class Published:
    """What a publication did."""

    bundle_id: str
    users: int
    items: int
    bytes: int
    previous: str | None
    removed_keys: int
    seconds: float


def publish(folder: Path, url: str, progress: Progress) -> Published:
    """Publishes the bundle in `folder`. Raises BundleError, or PublishError when Redis fails or lost a row."""
    started = time.monotonic()
    bundle = open_bundle(folder)
    files: dict[RowSide, RowFile] = {side: _open(bundle, side) for side in ("user", "item")}
    address, client = _client(url)
    try:
        with client as redis:
            size = _copy(redis, bundle.bundle_id, files, progress)
            _verify(redis, bundle.bundle_id, files, address)
            previous = _point(redis, bundle.bundle_id)
            removed = _remove_others(redis, {bundle.bundle_id, previous})
    except RedisError as error:
        raise PublishError(
            f"Redis at {address}: {type(error).__name__}: {error}; the rows are not published, run it again"
        ) from error
    return Published(
        bundle.bundle_id,
        files["user"].count,
        files["item"].count,
        size,
        previous,
        removed,
        round(time.monotonic() - started, 3),
    )


def _client(url: str) -> tuple[str, Redis]:
    """Where the URL leads, and a client that has not yet connected."""
    try:
        client = Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        client.connection_pool.make_connection()  # looks at the URL's options
        return redis_address(url), client
    except (TypeError, ValueError) as error:
        raise PublishError(f"--redis: {error}") from None


def _open(bundle: Bundle, side: RowSide) -> RowFile:
    return RowFile(bundle.path(ROWS[side]), RowCodec(bundle.schema, side, bundle.bundle_id), bundle.bundle_id)


def _chunks(bundle_id: str, files: dict[RowSide, RowFile]) -> Iterator[dict[bytes, bytes]]:
    for side, file in files.items():
        prefix = key_prefix(bundle_id, side).encode()
        for start in range(0, file.count, _CHUNK):
            yield {prefix + one.encode(): row for one, row in file.scan(start, start + _CHUNK)}


def _copy(redis: Redis, bundle_id: str, files: dict[RowSide, RowFile], progress: Progress) -> int:
    total = sum(file.count for file in files.values())
    copied = size = 0
    progress(0, total)
    with redis.pipeline(transaction=False) as pipeline:
        for chunk in _chunks(bundle_id, files):
            pipeline.mset(chunk)
            copied += len(chunk)
            size += sum(map(len, chunk.values()))
            if len(pipeline) >= _CHUNKS_IN_FLIGHT:
                pipeline.execute()
                progress(copied, total)
        pipeline.execute()
    progress(copied, total)
    return size


def _verify(redis: Redis, bundle_id: str, files: dict[RowSide, RowFile], address: str) -> None:
    """Reads rows from all over the file back, and compares them byte by byte."""
    for side, file in files.items():
        step = max(1, file.count // _SAMPLE)
        sample = [file.scan(place, place + 1)[0] for place in range(0, file.count, step)]
        if not sample:
            continue
        found = cast("list[bytes | None]", redis.mget([key_prefix(bundle_id, side) + one for one, _ in sample]))
        wrong = [one for (one, row), value in zip(sample, found, strict=True) if row != value]
        if wrong:
            raise PublishError(
                f"Redis at {address}: {len(wrong)} of {len(sample)} rows read back are not what was written, e.g. of"
                f" {side} {wrong[0]!r}; has it enough memory, and does nobody else write? The pointer was not moved"
            )


def _point(redis: Redis, bundle_id: str) -> str | None:
    """Points to the bundle; the one that was pointed to before stays beside it as the previous one."""
    current, previous = (
        value.decode() if value is not None else None
        for value in cast("list[bytes | None]", redis.mget([POINTER, PREVIOUS]))
    )
    if current == bundle_id:
        return previous
    with redis.pipeline(transaction=True) as pipeline:
        if current is not None:
            pipeline.set(PREVIOUS, current)
        pipeline.set(POINTER, bundle_id)
        pipeline.execute()
    return current


def _remove_others(redis: Redis, kept: set[str | None]) -> int:
    """Deletes the rows of bundles that are neither current nor previous."""
    removed = 0
    doomed: list[bytes] = []
    for key in redis.scan_iter(match="msd:*", count=1_000):
        found = _NAMESPACE.match(key)
        if found and found[1].decode() not in kept:
            doomed.append(key)
        if len(doomed) >= _CHUNK:
            removed += redis.unlink(*doomed)
            doomed.clear()
    return removed + (redis.unlink(*doomed) if doomed else 0)
