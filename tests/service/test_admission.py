"""Admission to the queue: which requests are refused, and when."""

import asyncio
import threading
import time
from collections import Counter, deque
from contextlib import nullcontext, suppress
from functools import partial

import pytest

import native
from msd.contract.bundle import Bundle
from service.errors import Overloaded
from service.scoring.engine import ScoringEngine
from service.telemetry.metrics import Metrics
from tests.service.bench import Admitted, Bench, CountingRuntime, Load, enter, release
from tests.service.fronted import deployed
from tests.service.redis_rows import until


def test_body_is_expected_to_hold_candidates_but_no_more_than_may_be(bundle: Bundle) -> None:
    """Where nobody waits none is refused for its size alone, whatever it may hold."""
    bench, is_open = Bench(max_rows=100, max_candidates=100), threading.Event()
    bench.runtime.may_go_on = is_open.is_set

    async def expected(size: int) -> int:
        is_open.clear()
        bench.runtime.runs.clear()
        asked = asyncio.ensure_future(bench.ask(10, size=size))
        await bench.begins()
        rows: int = bench.engine.native.admitted[0]
        is_open.set()
        assert (await asked).status == 200
        await until(lambda: bench.engine.is_idle)
        return rows

    async def ask() -> list[int]:
        async with bench.served(bundle):
            return [await expected(size) for size in (1_000, 1_000, 2**20, 0)]

    unknown, *known = asyncio.run(ask())
    assert 50 <= unknown <= 100
    assert known == [10, 100, 1]


def test_bytes_of_few_candidates_weigh_as_many() -> None:
    """After a client that sends 250 ads with a thousand values each, too."""
    engine = Bench(max_candidates=2_000).engine.native
    for _ in range(100):
        engine.learn(2**20, 250)

    assert engine.rows_in(2**20) == 2_000
    assert engine.rows_in(2**17) == 256
    assert engine.rows_in(4_000) == 7


def test_admission_is_bounded_in_rows() -> None:
    bench = Bench(max_rows=10)
    load = bench.admit(6)
    for _ in range(50):
        with pytest.raises(Overloaded, match=r"6 candidates are queued; with these 5 there would be too many"):
            bench.admit(5)
    bench.admit(4)
    release(bench.engine, load)
    bench.admit(6)


def test_log_does_not_repeat_itself(capsys: pytest.CaptureFixture[str]) -> None:
    engine = Bench().engine
    for _ in range(50):
        engine.shed("explain")
    assert capsys.readouterr().out.count("shedding") == 1


def admitted(admission: ScoringEngine, load: Load, left_s: float = 10.0) -> list[Admitted]:
    """All equal requests that are accepted at once. `left_s` is so long that the test's own time is nothing."""
    found: list[Admitted] = []
    try:
        while len(found) < 1_000:
            found.append(enter(admission, load, time.perf_counter() + left_s))
    except Overloaded:
        return found
    raise AssertionError("there is no end")


def test_several_threads_have_time_for_as_many_times_as_much() -> None:
    counts = [len(admitted(Bench(max_rows=100_000, threads=n).engine, Load(200, 0.5))) for n in (1, 2, 4)]
    assert counts == [9, 18, 36]


@pytest.mark.parametrize(("max_rows", "large", "small"), [(40_000, 0.0, 0.0), (10**6, 0.5, 0.05)], ids=["rows", "time"])
def test_large_requests_leave_half_of_the_queue_to_others(max_rows: int, large: float, small: float) -> None:
    engine = Bench(max_rows=max_rows).engine
    crowd = admitted(engine, Load(2_000, large))
    others = admitted(engine, Load(200, small))
    assert len(crowd) >= 4
    assert len(others) * 200 >= 0.9 * len(crowd) * 2_000


@pytest.mark.parametrize(("max_rows", "seconds"), [(4_000, 0.0), (10**6, 0.05)], ids=["rows", "time"])
@pytest.mark.parametrize("crowd", [("loud",), ("loud", "louder", "loudest")])
def test_key_that_asks_for_little_is_not_refused_for_what_others_ask(
    max_rows: int, seconds: float, crowd: tuple[str, ...]
) -> None:
    engine = Bench(max_rows=max_rows).engine
    waiting: deque[Admitted] = deque()
    accepted: Counter[str] = Counter()
    for turn in range(100):
        for _ in range(min(4, len(waiting))):
            release(engine, waiting.popleft())
        for name in (*crowd * 10, "quiet"):
            with suppress(Overloaded):
                waiting.append(enter(engine, Load(20, seconds, name), time.perf_counter() + 10.0))
                accepted[name] += turn >= 50
    assert accepted["quiet"] == 50
    assert 140 <= sum(accepted[name] for name in crowd) <= 160  # the rest of what is scored


def test_request_that_would_be_late_is_refused() -> None:
    bench = Bench(max_rows=100_000, deadline_s=0.5)
    for rows in (200, 1):
        bench.runner.learn_turn(rows, 0.01)
    taken: list[Admitted] = []

    def take_all_on() -> None:
        for _ in range(100):
            taken.append(bench.admit(200))

    with pytest.raises(Overloaded, match=r"but \d+ ms are left"):
        take_all_on()
    assert 1 < len(taken) <= 50
    for load in taken:
        release(bench.engine, load)
    release(bench.engine, bench.admit(200))
    # Where nobody waits everything is tried, and what is not known is.
    release(bench.engine, bench.admit(1_000))
    bench.admit(300)


def test_after_a_refusal_fewer_may_wait_until_the_queue_is_empty() -> None:
    bench = Bench(max_rows=100_000, deadline_s=10.0)
    load = Load(200, 0.5)
    burst = admitted(bench.engine, load)
    for _ in range(len(burst) // 2):
        release(bench.engine, burst.pop())
    # As many are scored as come: a while ago so many more could have waited.
    standing = burst + admitted(bench.engine, load)
    for entry in standing:
        release(bench.engine, entry)
    release(bench.engine, enter(bench.engine, load, time.perf_counter() + bench.deadline_s))
    assert [entry.load for entry in admitted(bench.engine, load)] == [load] * 9
    assert len(standing) == 5


@pytest.mark.parametrize(
    ("deadline_s", "learned_s", "rows"),
    [(0.1, [0.01] * 20, [1, 200]), (0.5, [*[0.001] * 10, 0.5], [1] * 10)],
    ids=["a run has a fixed cost", "one stall"],
)
def test_request_is_not_refused_for(deadline_s: float, learned_s: list[float], rows: list[int]) -> None:
    bench = Bench(deadline_s=deadline_s)
    for seconds in learned_s:
        bench.runner.learn_turn(1, seconds)
    for count in rows:
        bench.admit(count)


def test_only_what_is_due_earlier_keeps_others_out() -> None:
    admission = ScoringEngine(Metrics(), max_rows=100_000, patience_s=60.0)
    now = time.perf_counter()
    for _ in range(10):
        enter(admission, Load(200, 2.0), now + 60)
    for _ in range(4):
        enter(admission, Load(10, 0.1), now + 1)
    with pytest.raises(Overloaded, match="are left before the deadline"):
        enter(admission, Load(10, 0.1), now + 1)


def test_long_deadlines_that_are_due_keep_no_others_from_the_last_thread() -> None:
    engine = Bench(threads=2, max_rows=10**6, patience_s=1.0).engine
    crowd = admitted(engine, Load(1, 0.05), 1.02)
    time.sleep(0.05)  # they are due before what comes now
    others = admitted(engine, Load(1, 0.05), 1.0)
    assert len(crowd) > 15
    assert len(others) > 7


def judged_beside_runs(
    bundle: Bundle, runs_s: tuple[float, ...], waiting: Load, load: Load, left_s: float, threads: int
) -> None:
    """Checks a load while runs that are expected to take so long have begun."""
    core = native.core
    assert core is not None
    bench, is_open = Bench(threads=threads, max_rows=10_000), threading.Event()

    async def ask() -> None:
        async with bench.served(bundle):
            now = time.perf_counter()
            admitted = enter(bench.engine, waiting, now + (600 if waiting.seconds == 0 else left_s))
            running = []
            for seconds in runs_s:
                runtime, runner = CountingRuntime(), core.Runner()
                runtime.may_go_on = is_open.is_set
                for rows in (1, 2, 4, 8):
                    runner.learn_turn(rows, seconds)
                bench.fronted.swap(deployed([bench.model(runtime, runner)]))
                running.append(bench.asks(1, 9_000))
                await until(partial(bool, runtime.runs))
            try:
                release(bench.engine, enter(bench.engine, load, time.perf_counter() + left_s))
            finally:
                is_open.set()
                await asyncio.gather(*running)
                release(bench.engine, admitted)

    asyncio.run(ask())


@pytest.mark.parametrize(("runs_s", "is_taken"), [((), True), ((900.0,), True), ((900.0, 900.0), False)])
def test_wait_is_for_the_thread_that_is_free_first(bundle: Bundle, runs_s: tuple[float, ...], is_taken: bool) -> None:
    """A long run in one thread keeps nobody from another."""
    with nullcontext() if is_taken else pytest.raises(Overloaded, match=r"it would take (89|90)\d{4} ms"):
        judged_beside_runs(bundle, runs_s, Load(1, 0.0), Load(1, 0.1), 1.0, threads=2)


@pytest.mark.parametrize(
    ("waiting_s", "runs_s", "wait_s"),
    [(400.0, (), 200), (400.0, (1_000.0,), 400), (600.0, (500.0, 100.0), 600), (600.0, (300.0,), 300)],
)
def test_queued_work_is_shared_by_free_threads(
    bundle: Bundle, waiting_s: float, runs_s: tuple[float, ...], wait_s: int
) -> None:
    threads = 3 if wait_s == 300 else 2
    with pytest.raises(Overloaded, match=r"it would take \d+ ms") as raised:
        judged_beside_runs(bundle, runs_s, Load(1, waiting_s), Load(1, 0.0), 50.0, threads)
    assert int(str(raised.value).split("it would take ")[1].split(" ms")[0]) == pytest.approx(1000 * wait_s, rel=0.1)


def test_long_deadlines_fill_half_of_the_queue_at_most() -> None:
    admission = ScoringEngine(Metrics(), max_rows=100, max_candidates=10, patience_s=1.0)
    now = time.perf_counter()
    for _ in range(5):
        enter(admission, Load(10, 0.0), now + 60)
    with pytest.raises(Overloaded, match="too many for a deadline as long as this"):
        enter(admission, Load(10, 0.0), now + 60)
    for _ in range(25):
        enter(admission, Load(2, 0.0), now + 0.5)
    with pytest.raises(Overloaded, match="too many"):
        enter(admission, Load(1, 0.0), now + 0.5)


def test_short_deadline_behind_a_long_run_is_refused_at_once(bundle: Bundle) -> None:
    with pytest.raises(Overloaded, match="are left before the deadline"):
        judged_beside_runs(bundle, (5.0,), Load(1, 5.0), Load(1, 5.0), 5.0, threads=1)
