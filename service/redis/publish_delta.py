"""Takes what changed of a bundle's rows into Redis, where every service of that bundle sees it within a second.

A delta fits the rows that it was made for, and no others. A run that was interrupted can be repeated.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msd.contract.redis_keys import rows_key
from service.redis.publication import Progress, Publication, PublishError, keys_of, publication
from service.trust import Trust


@dataclass(frozen=True)
class DeltaPublished:
    """What the publication of a delta did; nothing where `repeated`, for then it had been published before."""

    bundle_id: str
    users: int
    items: int
    bytes: int
    removed_keys: int
    repeated: bool
    seconds: float


def publish_delta(folder: Path, url: str, progress: Progress, trust: Trust | None = None) -> DeltaPublished:
    """Publishes the delta in `folder`. Raises BundleError, or PublishError where Redis fails or it does not fit."""
    started = time.monotonic()
    delta = (trust or Trust(None)).open_delta(folder)
    bundle_id, base, result = delta.manifest.bundle_id, delta.manifest.base, delta.manifest.result
    users = items = size = removed = 0
    with publication(url) as running:
        held = held_rows(running, bundle_id)
        # What rows hold between two states fits no other delta until this one has ended.
        underway = f"{base}>{result}"
        if held not in (base, underway, result):
            raise PublishError(
                f"Redis at {running.address} holds rows {_named(held)} of bundle {bundle_id}, this delta leads from"
                f" {base[:12]}… to {result[:12]}…: publish the deltas in their order, or the newest bundle whole"
            )
        if held != result:
            running.redis.set(rows_key(bundle_id), underway)
            size = running.copy(bundle_id, delta.rows, progress)
            for side, ids in delta.removed.items():
                removed += running.remove(keys_of(bundle_id, side, ids))
            running.verify(bundle_id, delta.rows)
            running.redis.set(rows_key(bundle_id), result)
            users, items = delta.rows["user"].count, delta.rows["item"].count
    seconds = round(time.monotonic() - started, 3)
    return DeltaPublished(bundle_id, users, items, size, removed, held == result, seconds)


def held_rows(running: Publication, bundle_id: str) -> str:
    """The digest of the rows that Redis holds of the bundle."""
    value = cast("bytes | None", running.redis.get(rows_key(bundle_id)))
    if value is None:
        raise PublishError(
            f"Redis at {running.address} holds no rows of bundle {bundle_id}, or not all of them: run"
            " `msd publish BUNDLE` with the whole bundle first"
        )
    return value.decode("ascii", "replace")


def _named(held: str) -> str:
    """A state of the rows, short; or the two between which an interrupted delta has left them."""
    start, between, end = held.partition(">")
    return f"between {start[:12]}… and {end[:12]}…" if between else f"{held[:12]}…"
