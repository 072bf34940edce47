"""Publish a bundle to Redis: copy its rows, verify them, then move the pointer; or apply a delta. Every step can be
repeated.

Rows go into their bundle's namespace, which is not read before the pointer is set. A delta applies only to the rows
that it was made from; services see it within a second.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis import Redis

from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowSide
from operations.delta import open_delta, rows_digest
from service.redis.keys import BESIDE, POINTER, PREVIOUS, key_prefix, rows_key
from service.redis.publication import Publication, PublishError, get_all, publication, set_all
from service.trust import Trust

CHUNK = 500
_CHUNKS_IN_FLIGHT = 8
# Keys per scan; Redis returns at least some ten thousand a second.
_LOOKED_AT = 50_000
_SAMPLE = 256
_NAMESPACE = re.compile(rb"^msd:([0-9a-f]{32}):")

Files = Mapping[RowSide, RowFile]
Progress = Callable[[int, int], None]
"""Called with the number of copied rows and of all rows."""


@dataclass(frozen=True)
class PublishedRows:
    """Result of a publication."""

    bundle_id: str
    users: int
    items: int
    bytes: int
    previous: str | None
    removed_keys: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"published bundle {self.bundle_id}: {self.users} users, {self.items} items, {self.bytes} bytes"
            f" in {self.seconds} s; previous: {self.previous or 'none'}; removed {self.removed_keys} old keys"
        )


def publish(
    folder: Path, url: str, progress: Progress, trust: Trust | None = None, *, beside: bool = False
) -> PublishedRows:
    """Publish the bundle in `folder`. Raises BundleError, or PublishError if Redis fails or lost a row.

    `beside` the published bundle, for experiments: the pointer stays, and the rows stay until the bundle is published
    alone.
    """
    started = time.monotonic()
    bundle = (trust or Trust(None)).open(folder)
    files: Files = {side: RowFile.of(bundle, side) for side in ROW_SIDES}
    with publication(url) as running:
        # Until the end the state of the rows is undefined, so no delta applies.
        running.redis.delete(rows_key(bundle.bundle_id))
        size = copy_rows(running, bundle.bundle_id, files, progress)
        verify_rows(running, bundle.bundle_id, files)
        if beside:
            running.redis.sadd(BESIDE, bundle.bundle_id)
            running.redis.set(rows_key(bundle.bundle_id), rows_digest(bundle))
            before = get_all(running.redis, [PREVIOUS])[0]
            previous, removed = None if before is None else before.decode(), 0
        else:
            previous = _point(running.redis, bundle.bundle_id, rows_digest(bundle))
            running.redis.srem(BESIDE, bundle.bundle_id)
            others = cast("Collection[bytes]", running.redis.smembers(BESIDE))
            kept = {bundle.bundle_id, previous, *(other.decode() for other in others)}
            keys = running.redis.scan_iter(match="msd:*", count=1_000)
            # Neither current nor previous, nor published beside them.
            removed = remove_keys(
                running, keys, lambda key: any(bundle.decode() not in kept for bundle in _NAMESPACE.findall(key))
            )
    return PublishedRows(
        bundle.bundle_id,
        files["user"].count,
        files["item"].count,
        size,
        previous,
        removed,
        round(time.monotonic() - started, 3),
    )


def _point(redis: Redis, bundle_id: str, digest: str) -> str | None:
    """Point to the bundle; the current one becomes the previous one."""
    current, previous = (None if value is None else value.decode() for value in get_all(redis, [POINTER, PREVIOUS]))
    # One by one, because in a cluster they are on different nodes; the pointer last.
    redis.set(rows_key(bundle_id), digest)
    if current != bundle_id:
        if current is not None:
            redis.set(PREVIOUS, current)
        redis.set(POINTER, bundle_id)
    return previous if current == bundle_id else current


@dataclass(frozen=True)
class DeltaPublished:
    """Result of publishing a delta; empty if `repeated`, because it was published before."""

    bundle_id: str
    users: int
    items: int
    bytes: int
    removed_keys: int
    repeated: bool
    seconds: float

    def __str__(self) -> str:
        if self.repeated:
            return f"bundle {self.bundle_id} has had these rows before; nothing to do"
        return (
            f"published a delta of bundle {self.bundle_id}: {self.users} users, {self.items} items, {self.bytes} bytes"
            f" in {self.seconds} s; removed {self.removed_keys} keys"
        )


def publish_delta(folder: Path, url: str, progress: Progress, trust: Trust | None = None) -> DeltaPublished:
    """Publish the delta in `folder`. Raises BundleError, or PublishError if Redis fails or it does not apply."""
    started = time.monotonic()
    delta = open_delta(folder, proof=(trust or Trust(None)).proof)
    bundle_id, base, result = delta.manifest.bundle_id, delta.manifest.base, delta.manifest.result
    users = items = size = removed = 0
    with publication(url) as running:
        held = held_rows(running, bundle_id)
        # Between two states no other delta applies until this one ends.
        underway = f"{base}>{result}"
        if held not in (base, underway, result):
            start, between, end = held.partition(">")
            name = f"between {start[:12]}… and {end[:12]}…" if between else f"{held[:12]}…"
            raise PublishError(
                f"Redis at {running.address} holds rows {name} of bundle {bundle_id}, but this delta leads from"
                f" {base[:12]}… to {result[:12]}…: publish deltas in order, or the newest bundle whole"
            )
        if held != result:
            running.redis.set(rows_key(bundle_id), underway)
            size = copy_rows(running, bundle_id, delta.rows, progress)
            for side, ids in delta.removed.items():
                prefix = key_prefix(bundle_id, side).encode()
                removed += remove_keys(running, (prefix + id_.encode() for id_ in ids))
            verify_rows(running, bundle_id, delta.rows)
            running.redis.set(rows_key(bundle_id), result)
            users, items = delta.rows["user"].count, delta.rows["item"].count
    seconds = round(time.monotonic() - started, 3)
    return DeltaPublished(bundle_id, users, items, size, removed, held == result, seconds)


def held_rows(running: Publication, bundle_id: str) -> str:
    """Return the digest of the bundle's rows in Redis."""
    value = cast("bytes | None", running.redis.get(rows_key(bundle_id)))
    if value is None:
        raise PublishError(
            f"Redis at {running.address} holds no rows of bundle {bundle_id}, or not all of them: run"
            " `msd publish BUNDLE` with the whole bundle first"
        )
    return value.decode("ascii", "replace")


def copy_rows(running: Publication, bundle_id: str, files: Files, progress: Progress) -> int:
    """Write all rows, and return their bytes. Readers see whole rows, old or new. Raises BundleError for a row that
    they would refuse."""
    total = sum(file.count for file in files.values())
    copied = size = 0
    progress(0, total)
    with running.redis.pipeline(transaction=False) as pipeline:
        for side, start in ((side, start) for side, file in files.items() for start in range(0, file.count, CHUNK)):
            chunk, prefix = files[side].scan(start, start + CHUNK), key_prefix(bundle_id, side).encode()
            files[side].codec.check(chunk)
            set_all(running.redis, pipeline, {prefix + one.encode(): row for one, row in chunk})
            copied += len(chunk)
            size += sum(len(row) for _, row in chunk)
            if len(pipeline) >= _CHUNKS_IN_FLIGHT:
                pipeline.execute()
                running.renew()
                progress(copied, total)
        pipeline.execute()
    progress(copied, total)
    return size


def remove_keys(
    running: Publication, keys: Iterable[bytes], is_doomed: Callable[[bytes], bool] = lambda key: True
) -> int:
    """Delete the doomed keys, and return their number."""
    removed = 0
    doomed: list[bytes] = []
    for looked_at, key in enumerate(keys, start=1):
        if is_doomed(key):
            doomed.append(key)
        if looked_at % _LOOKED_AT == 0:
            running.renew()
        if len(doomed) >= CHUNK:
            removed += running.redis.unlink(*doomed)
            running.renew()
            doomed.clear()
    return removed + (running.redis.unlink(*doomed) if doomed else 0)


def verify_rows(running: Publication, bundle_id: str, files: Files) -> None:
    """Read back rows from all parts of the files. Raises PublishError."""
    for side, file in files.items():
        step, prefix = max(1, file.count // _SAMPLE), key_prefix(bundle_id, side).encode()
        sample = (file.scan(place, place + 1)[0] for place in range(0, file.count, step))
        read_back(running, {prefix + one.encode(): row for one, row in sample})


def read_back(running: Publication, written: Mapping[bytes, bytes]) -> None:
    """Compare rows with those in Redis, byte by byte. Raises PublishError."""
    found = get_all(running.redis, list(written)) if written else []
    wrong = [key for (key, row), value in zip(written.items(), found, strict=True) if row != value]
    if wrong:
        raise PublishError(
            f"Redis at {running.address}: {len(wrong)} of {len(written)} rows read back differ from those written,"
            f" e.g. {wrong[0].decode(errors='replace')!r}; check its memory and for other writers. The pointer was"
            " not moved"
        )
