"""Sentinels, a cluster and TLS, with real processes: rows arrive, are read, stay right, and failovers are followed."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from redis import Redis
from redis.crc import key_slot

from msd.contract.bundle import Bundle
from msd.contract.rows import Rows
from operations.catalogue.publish import publish_rows
from operations.publish import publish
from service.errors import StoreError
from service.redis.keys import key_prefix
from service.redis.publication import PublishError, connect
from service.redis.redis_url import parse_redis_url
from service.rows.redis_rows import RedisStore
from tests.bundles.factory import ITEMS, USERS, golden_requests
from tests.operations.catalogue.made import make, write_shard
from tests.service.live import LiveService, live_service
from tests.service.redis_fleet import ClusterFleet, cluster_fleet, move_slot, sentinel_fleet, tls_server
from tests.service.test_redis_store import quiet
from tests.service.test_redis_updates import change, impressions, run, until

ALL = [f"i{number}" for number in range(ITEMS)]
_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterFleet]:
    """One cluster for all tests, of which the last one breaks it."""
    folder = tmp_path_factory.mktemp("cluster")
    with cluster_fleet(folder) as running:
        yield running


@pytest.fixture
def cluster(fleet: ClusterFleet, bundle: Bundle) -> ClusterFleet:
    publish(bundle.folder, fleet.url, quiet)
    return fleet


async def items(store: RedisStore) -> Rows:
    try:
        return await store.get("item", ALL)
    except StoreError as error:
        return cast(Rows, error.rows)


async def is_whole(store: RedisStore) -> bool:
    """Whether all rows are there and none is stale."""
    rows = await items(store)
    return bool(rows.found.all() and (rows.stale is None or not rows.stale.any()))


def test_rows_from_a_cluster_are_those_of_the_bundle_and_changes_of_every_node_are_seen(
    cluster: ClusterFleet, bundle: Bundle
) -> None:
    client = connect(parse_redis_url(cluster.url), 5.0)
    assert min(one.client().dbsize() for one in cluster.masters) > 50

    async def use(store: RedisStore) -> None:
        await store.check()
        before = [one.client().info("stats")["total_reads_processed"] for one in cluster.masters]
        rows = await store.get("item", ALL)
        assert rows.found.all()
        assert (await store.get("item", ALL)).records.tobytes() == rows.records.tobytes()
        # One round trip, in which each node was sent all of its commands; the rest is signs of life.
        after = [one.client().info("stats")["total_reads_processed"] for one in cluster.masters]
        assert max(np.subtract(after, before)) < 40
        for item in ALL[1:13]:
            change(client, bundle, item, "i0")

        async def is_seen() -> bool:
            return len(set(await impressions(store, ALL[:13]))) == 1

        await until(is_seen)
        client.flushall()  # of all masters
        await until(lambda: is_gone(store))

    async def is_gone(store: RedisStore) -> bool:
        return not (await store.get("item", ALL)).found.any()

    run(bundle, cluster.url, use)


def test_cluster_fills_an_arena(cluster: ClusterFleet, bundle: Bundle) -> None:
    async def use(store: RedisStore) -> None:
        await store.check()

        async def is_filled() -> bool:
            return len(store._sides["item"].arena) == ITEMS and len(store._sides["user"].arena) == USERS

        await until(is_filled)

    run(bundle, cluster.url, use, fill_rows_per_s=1e6)


def test_catalogue_goes_to_all_nodes_of_a_cluster(cluster: ClusterFleet, bundle: Bundle, tmp_path: Path) -> None:
    ids = [f"ad {number}" for number in range(60)]
    write_shard(tmp_path / "items" / "a.parquet", {"id": [*ids, "i1"], "price": [9.5] * 61})
    make(tmp_path / "items", bundle, tmp_path / "rows")
    before = [one.client().dbsize() for one in cluster.masters]
    done = publish_rows(tmp_path / "rows", cluster.url, lambda copied, total: None)

    assert (done.items, done.kept) == (60, 1)
    after = [one.client().dbsize() for one in cluster.masters]
    assert sum(after) == sum(before) + 60
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_keys_are_followed_while_their_slot_moves_and_after(cluster: ClusterFleet, bundle: Bundle) -> None:
    client = connect(parse_redis_url(cluster.url), 5.0)
    key = (key_prefix(bundle.bundle_id, "item") + "i7").encode()
    slot = key_slot(key)
    owner = next(one for one in cluster.masters if one.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
    other = next(one for one in cluster.masters if one is not owner)

    async def use(store: RedisStore) -> None:
        (expected,) = await impressions(store, ["i7"])
        await asyncio.to_thread(move_slot, slot, owner, other, [key])
        await until(lambda: equals(store, expected))  # by an ASK, for the slot is still its first owner's
        await asyncio.to_thread(move_slot, slot, owner, other)
        await until(lambda: equals(store, expected))
        change(client, bundle, "i7", "i8")
        (new,) = await impressions(store, ["i8"])
        await until(lambda: equals(store, new))
        await asyncio.to_thread(move_slot, slot, other, owner)
        await until(lambda: equals(store, new))

    async def equals(store: RedisStore, expected: float) -> bool:
        try:
            return await impressions(store, ["i7"]) == [expected]
        except StoreError:
            return False

    run(bundle, cluster.url, use)


def test_service_scores_from_a_cluster_as_from_its_files(
    cluster: ClusterFleet, bundle: Bundle, service: LiveService, tmp_path: Path
) -> None:
    with live_service(
        bundle.folder, tmp_path, store="redis", redis_url=cluster.url, store_timeout_ms=2_000, workers=1
    ) as running:
        for request in golden_requests():
            ours, theirs = running.score(request).json(), service.score(request).json()
            assert ours["candidates"] == theirs["candidates"]
            assert ours.get("degraded") == theirs.get("degraded")
        assert running.metric('msd_store_state{state="up"}') == 1
        assert running.metric("msd_store_errors_total") == 0


def test_server_without_cluster_support_is_named(redis_server: object, bundle: Bundle) -> None:
    port = redis_server.port  # type: ignore[attr-defined]

    async def use(store: RedisStore) -> None:
        with pytest.raises(
            StoreError, match=r"no node describes the cluster: 127.0.0.1:\d+: .*cluster support disabled"
        ):
            await store.check()

    run(bundle, f"redis+cluster://127.0.0.1:{port}", use)
    with pytest.raises(PublishError, match="cluster|Cluster"):
        publish(bundle.folder, f"redis+cluster://127.0.0.1:{port}", quiet)


def test_when_a_master_dies_its_rows_are_stale_and_its_replica_takes_over(
    cluster: ClusterFleet, bundle: Bundle
) -> None:
    async def use(store: RedisStore) -> None:
        assert await is_whole(store)
        known = await items(store)
        cluster.masters[0].kill()

        async def is_partly_stale() -> bool:
            rows = await items(store)
            assert rows.records.tobytes() == known.records.tobytes()
            return rows.stale is not None and 0 < rows.stale.sum() < ITEMS / 2

        await until(is_partly_stale)
        assert store._nodes.state == "down"
        await until(lambda: is_whole(store))
        change(cluster.replicas[0].client(), bundle, *on_one_node(cluster, bundle))

        async def is_seen() -> bool:
            one, other = await impressions(store, on_one_node(cluster, bundle))
            return one == other

        await until(is_seen)

        async def is_up() -> bool:
            return store._nodes.state == "up"

        await until(is_up)

    run(bundle, cluster.url, use)


def on_one_node(cluster: ClusterFleet, bundle: Bundle) -> tuple[str, str]:
    """Two items that the first master held."""
    prefix = key_prefix(bundle.bundle_id, "item")
    one, other, *_ = [item for item in ALL if key_slot((prefix + item).encode()) < 16_384 // 3]
    return one, other


def test_sentinels_name_the_master_and_a_failover_is_followed(bundle: Bundle, tmp_path: Path) -> None:
    with sentinel_fleet(tmp_path, "hunter2") as fleet:
        publish(bundle.folder, fleet.url, quiet)
        publish(bundle.folder, fleet.url, quiet)

        async def use(store: RedisStore) -> None:
            await store.check()
            known = await items(store)
            assert known.found.all()
            await asyncio.to_thread(wait_for_replica, fleet.replica.port)
            fleet.master.kill()
            fleet.sentinels[0].kill()

            async def is_stale() -> bool:
                rows = await items(store)
                assert rows.records.tobytes() == known.records.tobytes()
                return rows.stale is not None and bool(rows.stale.all())

            await until(is_stale)
            await until(lambda: is_whole(store))
            with Redis(port=fleet.replica.port, password="hunter2") as client:
                change(client, bundle, "i1", "i2")

                async def is_seen() -> bool:
                    one, two = await impressions(store, ["i1", "i2"])
                    return one == two

                await until(is_seen)

        run(bundle, fleet.url, use)
        run(bundle, fleet.url.replace("/ads/", "/nobody/"), unknown)


def wait_for_replica(port: int) -> None:
    """Until it has all that was published."""
    with Redis(port=port, password="hunter2") as client:
        end = time.monotonic() + _PATIENCE_S
        while client.dbsize() < ITEMS + USERS + 2:
            assert time.monotonic() < end
            time.sleep(0.02)


async def unknown(store: RedisStore) -> None:
    """A master that Sentinels have not heard of."""
    with pytest.raises(StoreError, match="no Sentinel names the master 'nobody'.*does not know a master of that name"):
        await store.check()


def test_mutual_tls_and_users_of_few_rights(bundle: Bundle, tmp_path: Path) -> None:
    with tls_server(tmp_path / "tls") as (server, folder):
        files = f"ssl_ca_certs={folder}/ca.pem&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
        publish(bundle.folder, f"rediss://publisher:hunter2@127.0.0.1:{server.port}/0?{files}", quiet)

        async def use(store: RedisStore) -> None:
            await store.check()
            assert await is_whole(store)

        async def refused(store: RedisStore) -> None:
            with pytest.raises(StoreError, match=f"Redis at 127.0.0.1:{server.port}: ") as caught:
                await store.check()
            assert "hunter" not in str(caught.value)
            said.append(str(caught.value))

        said: list[str] = []
        address = f"127.0.0.1:{server.port}/0"
        run(bundle, f"rediss://reader:hunter3@{address}?{files}", use)
        run(bundle, f"rediss://reader:hunter4@{address}?{files}", refused)
        run(bundle, f"rediss://reader:hunter3@{address}?ssl_ca_certs={folder}/ca.pem", refused)
        run(bundle, f"rediss://reader:hunter3@{address}", refused)
        run(bundle, f"rediss://reader:hunter3@{address}?ssl_ca_certs={folder}/none.pem", refused)
        run(bundle, f"redis://reader:hunter3@{address}", refused)
        assert "WRONGPASS" in said[0]
        assert "certificate verify failed" in said[2]
        assert "none.pem" in said[3]
