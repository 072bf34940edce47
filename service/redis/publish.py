"""Copies a bundle's rows into Redis, proves that they arrived, then points to them.

Every step can be repeated: rows go into the namespace of their bundle, which nobody reads before the pointer is set.
"""

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from redis import Redis

from msd.contract.bundle import ROWS
from msd.contract.delta import rows_digest
from msd.contract.redis_keys import BESIDE, POINTER, PREVIOUS, rows_key
from msd.contract.row_file import RowFile
from msd.contract.rows import RowCodec, RowSide
from service.redis.most_shown import MostShown
from service.redis.publication import Files, Progress, publication
from service.redis.redis_client import get_all
from service.trust import Trust

_NAMESPACE = re.compile(rb"^msd:([0-9a-f]{32}):")


SIDES: tuple[RowSide, ...] = ("user", "item")


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


def publish(
    folder: Path, url: str, progress: Progress, trust: Trust | None = None, *, beside: bool = False
) -> Published:
    """Publishes the bundle in `folder`. Raises BundleError, or PublishError when Redis fails or lost a row.

    `beside` what is published, for experiments: the pointer stays, and the rows do until the bundle is published alone.
    """
    started = time.monotonic()
    bundle = (trust or Trust(None)).open(folder)
    codecs = {side: RowCodec(bundle.schema, side, bundle.bundle_id) for side in SIDES}
    files: Files = {side: RowFile(bundle.path(ROWS[side]), codec, bundle.bundle_id) for side, codec in codecs.items()}
    shown = MostShown(codecs)
    with publication(url) as running:
        # From now on until the end it is not known which rows are there, so that no delta fits them.
        running.redis.delete(rows_key(bundle.bundle_id))
        size = running.copy(bundle.bundle_id, files, progress, shown.see)
        running.verify(bundle.bundle_id, files)
        shown.write(running.redis, bundle.bundle_id)
        if beside:
            running.redis.sadd(BESIDE, bundle.bundle_id)
            running.redis.set(rows_key(bundle.bundle_id), rows_digest(bundle))
            before = get_all(running.redis, [PREVIOUS])[0]
            previous, removed = None if before is None else before.decode(), 0
        else:
            previous = _point(running.redis, bundle.bundle_id, rows_digest(bundle))
            running.redis.srem(BESIDE, bundle.bundle_id)
            others = cast("Collection[bytes]", running.redis.smembers(BESIDE))
            kept = {bundle.bundle_id, previous, *(one.decode() for one in others)}
            removed = running.remove(
                running.redis.scan_iter(match="msd:*", count=1_000), lambda key: _is_of_another(key, kept)
            )
    return Published(
        bundle.bundle_id,
        files["user"].count,
        files["item"].count,
        size,
        previous,
        removed,
        round(time.monotonic() - started, 3),
    )


def _point(redis: Redis, bundle_id: str, digest: str) -> str | None:
    """Points to the bundle; the one that was pointed to before stays beside it as the previous one."""
    current, previous = (None if value is None else value.decode() for value in get_all(redis, [POINTER, PREVIOUS]))
    # One after the other, for in a cluster they are on different nodes; the pointer last.
    redis.set(rows_key(bundle_id), digest)
    if current != bundle_id:
        if current is not None:
            redis.set(PREVIOUS, current)
        redis.set(POINTER, bundle_id)
    return previous if current == bundle_id else current


def _is_of_another(key: bytes, kept: set[str | None]) -> bool:
    """Whether a key is of a bundle that is not kept: neither current nor previous, nor beside them."""
    found = _NAMESPACE.match(key)
    return found is not None and found[1].decode() not in kept
