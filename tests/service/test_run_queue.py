"""The queue of scoring threads, with a runtime that counts: order, overlap, what never runs, failures, cancellation,
admission."""

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.assemble import Tensors
from service.errors import ClientGone, DeadlineExceeded, Overloaded
from service.runtimes.runtime import Engine, Scores
from service.scoring.admission import Admission, Admitted, Load, Running, due_at
from service.scoring.job import Done, Job, Runner, fit_deadline
from service.scoring.run_queue import RunQueue
from service.telemetry.metrics import Metrics


class CountingRuntime:
    """Notes what it runs, and in which threads. Answers with what it was given, after as long as it is told, or once it
    may go on."""

    engine = Engine("counting", "1", "none", 1, "fp32", ())

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.runs: list[int] = []
        self.threads: set[threading.Thread] = set()
        self.may_go_on: Callable[[], bool] = lambda: True
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def run(self, tensors: Tensors) -> Scores:
        """Fails on −1."""
        value = int(tensors["x"][0])
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.runs.append(value)
            self.threads.add(threading.current_thread())
        time.sleep(self.seconds)
        while not self.may_go_on():
            time.sleep(0.001)
        with self._lock:
            self.at_once -= 1
        if value == -1:
            raise RuntimeError("no such value")
        return {"pctr": np.array([value], np.float32)}

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        return ()


class Bench:
    """A queue and its runtime."""

    def __init__(
        self,
        seconds: float = 0.0,
        max_rows: int = 1_000,
        deadline_s: float = 60.0,
        threads: int = 1,
    ) -> None:
        self.runtime = CountingRuntime(seconds)
        self.metrics = Metrics()
        self.runner = Runner(self.runtime)
        self.admission = Admission(self.metrics, max_rows, threads)
        self.queue = RunQueue(self.metrics, self.admission, threads)
        self.deadline_s = deadline_s

    def admit(self, rows: int) -> Admitted:
        load = Load(rows, self.runner.turn_s.of(rows, 0.0))
        return self.admission.enter(load, time.perf_counter() + self.deadline_s)

    def check(self, rows: int) -> None:
        self.admission.check(Load(rows, self.runner.turn_s.of(rows, 0.0)), time.perf_counter() + self.deadline_s)

    async def begins(self) -> None:
        while not self.runtime.runs:
            await asyncio.sleep(0.001)

    async def run(
        self, value: int, rows: int = 1, deadline: float | None = None, is_gone: Callable[[], bool] = lambda: False
    ) -> int:
        """One run, of which the result has to be its own."""
        until = time.perf_counter() + 60 if deadline is None else deadline
        ran = await self.queue.run(self.runner, {"x": np.array([value])}, rows, until, is_gone)
        assert ran.queue_s >= 0
        assert ran.run_s >= 0
        return int(ran.result["pctr"][0])

    def sheds(self) -> dict[str, float]:
        """Those counted, by reason."""
        (family,) = [one for one in self.metrics.families.collect() if one.name == "msd_shed"]
        return {one.labels["reason"]: one.value for one in family.samples if one.value}


def together(bench: Bench, *coroutines: Coroutine[Any, Any, int]) -> list[Any]:
    """Results and errors of what runs at the same time."""

    async def gather() -> list[Any]:
        found = await asyncio.gather(*coroutines, return_exceptions=True)
        bench.queue.close()
        return found

    return asyncio.run(gather())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 50), min_size=1, max_size=40), st.integers(1, 4))
def test_each_request_gets_its_own_result_and_a_failing_run_fails_alone(values: list[int], threads: int) -> None:
    bench = Bench(threads=threads)
    found = together(bench, *(bench.run(value) for value in values))

    assert sorted(bench.runtime.runs) == sorted(values)
    if threads == 1:
        assert bench.runtime.runs == values
        assert bench.runtime.most_at_once == 1
    for value, result in zip(values, found, strict=True):
        assert result == value if value >= 0 else isinstance(result, RuntimeError)


class Meeting(CountingRuntime):
    """Ends no run before so many are under way."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._barrier = threading.Barrier(count, timeout=60)

    def run(self, tensors: Tensors) -> Scores:
        """Waits for the others."""
        self._barrier.wait()
        return super().run(tensors)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_runs_overlap_as_there_are_threads(threads: int) -> None:
    bench = Bench(threads=threads)
    bench.runner = Runner(Meeting(threads))
    values = list(range(3 * threads))
    assert together(bench, *(bench.run(value) for value in values)) == values


def test_any_work_can_be_done_in_a_scoring_thread() -> None:
    bench = Bench(threads=2)

    async def work() -> tuple[str, bool]:
        until = time.perf_counter() + 60
        done = await bench.queue.do(Job(lambda: threading.current_thread().name, bench.runner, 1, until, lambda: False))
        return done.result, done.is_partial

    name, is_partial = asyncio.run(work())
    bench.queue.close()
    assert name.startswith("scoring-")
    assert not is_partial


def test_late_job_is_shortened_at_its_turn() -> None:
    bench = Bench()
    for _ in range(20):
        bench.runner.run_s.learn(200, 10.0)
        bench.runner.run_s.learn(20, 0.001)

    async def work() -> tuple[int, int, bool]:
        until = time.perf_counter() + 5
        job = Job(lambda: 200, bench.runner, 200, until, lambda: False, shorten=lambda count: lambda: count)
        done = await bench.queue.do(job)
        return done.result, job.rows, done.is_partial

    assert asyncio.run(work()) == (30, 31, True)
    bench.queue.close()


@pytest.mark.parametrize(("expected_s", "rows"), [(69.0, 200), (71.0, 127)])
def test_run_is_planned_for_seven_tenths_of_the_remaining_time(expected_s: float, rows: int) -> None:
    bench = Bench()
    bench.runner.run_s.learn(200, expected_s)
    bench.runner.run_s.learn(100, 1.0)
    until = time.perf_counter() + 100
    job = Job(lambda: 200, bench.runner, 200, until, lambda: False, shorten=lambda count: lambda: count)

    assert fit_deadline(job) is None
    assert job.rows == rows
    bench.queue.close()


def test_loop_goes_on_while_a_long_run_runs() -> None:
    bench, turns = Bench(), list[int]()
    bench.runtime.may_go_on = lambda: len(turns) == 5

    async def count() -> int:
        running = asyncio.ensure_future(bench.run(1))
        await bench.begins()
        for turn in range(5):
            await asyncio.sleep(0.001)
            assert not running.done()
            turns.append(turn)
        return await running

    assert asyncio.run(asyncio.wait_for(count(), 60)) == 1
    bench.queue.close()


def test_abandoned_or_late_work_never_runs() -> None:
    bench = Bench(seconds=0.01)
    past = time.perf_counter() - 1
    found = together(bench, bench.run(1), bench.run(2, is_gone=lambda: True), bench.run(3, deadline=past), bench.run(4))

    assert bench.runtime.runs == [1, 4]
    assert (found[0], found[3]) == (1, 4)
    assert isinstance(found[1], ClientGone)
    assert isinstance(found[2], DeadlineExceeded)
    assert bench.sheds() == {"client_gone": 1, "deadline": 1}


def test_cancelled_requests_give_their_turn_back() -> None:
    """Of those that wait, none runs; the run at hand ends, and the next begins."""
    bench, go_on = Bench(), threading.Event()
    bench.runtime.may_go_on = go_on.is_set

    async def cancel() -> int:
        tasks = [asyncio.ensure_future(bench.run(value)) for value in range(4)]
        await bench.begins()
        for task in tasks[:3]:
            task.cancel()
        # Each has heard of it once the loop has gone round.
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await bench.run(7)

    assert asyncio.run(cancel()) == 7
    bench.queue.close()
    assert bench.runtime.runs == [0, 3, 7]


def test_closing_ends_what_waits() -> None:
    bench = Bench()
    bench.runtime.may_go_on = lambda: bench.queue._is_closed

    async def close() -> list[Any]:
        tasks = [asyncio.ensure_future(bench.run(value)) for value in range(3)]
        await bench.begins()
        bench.queue.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(asyncio.CancelledError):
            await bench.run(3)
        return found

    found = asyncio.run(close())
    assert bench.runtime.runs == [0]
    assert [type(one) for one in found[1:]] == [asyncio.CancelledError] * 2


def test_body_is_expected_to_hold_candidates_but_no_more_than_may_be() -> None:
    """Where nobody waits none is refused for its size alone, whatever it may hold."""
    admission = Admission(Metrics(), max_rows=100, max_candidates=100)
    assert 50 <= admission.rows_in(1_000) <= 100
    assert admission.rows_in(2**20) == 100
    admission.read(1_000, 10)
    assert admission.rows_in(1_000) == 10
    assert admission.rows_in(1) == 1
    admission.enter(Load(admission.rows_in(2**20), 0.0), time.perf_counter())


def test_failing_callback_affects_no_other() -> None:
    bench, told = Bench(), list[int]()
    failures: list[dict[str, Any]] = []

    async def go() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: failures.append(context))

        def tell(value: int, outcome: object) -> None:
            told.append(value)
            if value % 2:
                raise ValueError("told badly")

        until = time.perf_counter() + 60
        for value in range(20):
            job = Job(lambda: None, bench.runner, 1, until, lambda: False)
            bench.queue.put(job, partial(tell, value))
        # All end before the loop hears of any.
        time.sleep(0.1)
        while len(told) < 20:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(go(), 10))
    bench.queue.close()
    assert told == list(range(20))
    assert [str(one["exception"]) for one in failures] == ["told badly"] * 10


def test_jobs_end_leaves_nothing_of_it_behind() -> None:
    """Work that holds its job is let go of at once: it may hold a model that serves no more."""
    bench, kept = Bench(), weakref.WeakSet[object]()
    told: list[type] = []

    class Held:
        """What work holds."""

    def put(seconds: float) -> None:
        held = Held()
        kept.add(held)
        until = time.perf_counter() + seconds
        job: Job[object] = Job(lambda: (job.rows, held), bench.runner, 1, until, lambda: False)
        bench.queue.put(job, lambda outcome: told.append(type(outcome)))

    async def wait() -> None:
        gc.disable()
        try:
            put(60)
            put(-1)
            end = time.monotonic() + 10
            while (kept or len(told) < 2) and time.monotonic() < end:
                await asyncio.sleep(0.001)
            assert not kept
        finally:
            gc.enable()

    asyncio.run(wait())
    bench.queue.close()
    assert set(told) == {Done, DeadlineExceeded}


def test_error_while_a_job_is_judged_costs_that_job_alone() -> None:
    bench = Bench()

    def is_gone() -> bool:
        raise ValueError("of the client")

    found = together(bench, bench.run(1), bench.run(2, is_gone=is_gone), bench.run(3))
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], ValueError)


def test_loop_that_ended_leaves_the_threads_for_the_next() -> None:
    bench, has_left = Bench(), threading.Event()
    bench.runtime.may_go_on = has_left.is_set

    async def leave() -> None:
        asyncio.ensure_future(bench.run(1))
        await bench.begins()

    asyncio.run(leave())
    has_left.set()
    assert asyncio.run(bench.run(2)) == 2
    bench.queue.close()
    assert bench.runtime.runs == [1, 2]


def test_admission_is_bounded_in_rows(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(max_rows=10)
    load = bench.admit(6)
    for _ in range(50):
        with pytest.raises(Overloaded, match=r"6 candidates are queued; with these 5 there would be too many"):
            bench.admit(5)
    bench.admit(4)
    bench.admission.leave(load)
    bench.admit(6)
    assert bench.sheds() == {"rows": 50}
    # The log does not repeat itself.
    assert capsys.readouterr().out.count("shedding") == 1


def admitted(admission: Admission, load: Load, left_s: float = 10.0) -> list[Admitted]:
    """All equal requests that are accepted at once. `left_s` is so long that the test's own time is nothing."""
    found: list[Admitted] = []
    try:
        while len(found) < 1_000:
            found.append(admission.enter(load, time.perf_counter() + left_s))
    except Overloaded:
        return found
    raise AssertionError("there is no end")


def test_several_threads_have_time_for_as_many_times_as_much() -> None:
    counts = [len(admitted(Bench(max_rows=100_000, threads=n).admission, Load(200, 0.5))) for n in (1, 2, 4)]
    assert counts == [9, 18, 36]


def test_how_long_a_turn_takes_is_learned_by_size() -> None:
    bench = Bench(seconds=0.01)

    async def learn() -> None:
        for value in range(5):
            await bench.run(value, rows=200)

    asyncio.run(learn())
    bench.queue.close()
    assert bench.runner.turn_s.of(200, 0.0) >= 0.01
    assert bench.runner.turn_s.of(1, 0.0) == 0.0


def test_request_that_would_be_late_is_refused() -> None:
    bench = Bench(max_rows=100_000, deadline_s=0.5)
    for rows in (200, 1):
        bench.runner.turn_s.learn(rows, 0.01)
    taken: list[Admitted] = []

    def take_all_on() -> None:
        for _ in range(100):
            taken.append(bench.admit(200))

    with pytest.raises(Overloaded, match=r"but \d+ ms are left"):
        take_all_on()
    assert 1 < len(taken) <= 50
    assert bench.sheds() == {"wait": 1}
    for load in taken:
        bench.admission.leave(load)
    bench.check(200)
    # Where nobody waits everything is tried, and what is not known is.
    bench.admission.leave(bench.admit(1_000))
    bench.admit(300)


def test_after_a_refusal_fewer_may_wait_until_the_queue_is_empty() -> None:
    bench = Bench(max_rows=100_000, deadline_s=10.0)
    one = Load(200, 0.5)
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    burst = admitted(bench.admission, one)
    # The event loop has refusals to write, and the scoring threads are to have Python's lock all the same.
    assert sys.getswitchinterval() == pytest.approx(0.00002)
    for _ in range(len(burst) // 2):
        bench.admission.leave(burst.pop())
    # As many are scored as come: a while ago so many more could have waited.
    standing = burst + admitted(bench.admission, one)
    for load in standing:
        bench.admission.leave(load)
    bench.admission.leave(bench.admission.enter(one, time.perf_counter() + bench.deadline_s))
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    assert [entry.load for entry in admitted(bench.admission, one)] == [one] * 9
    assert len(standing) == 5


@pytest.mark.parametrize(
    ("deadline_s", "learned_s", "rows"),
    [(0.1, [0.01] * 20, [1, 200]), (0.5, [*[0.001] * 10, 0.5], [1] * 10)],
    ids=["a run has a fixed cost", "one stall"],
)
def test_request_is_not_refused_for(deadline_s: float, learned_s: list[float], rows: list[int]) -> None:
    bench = Bench(deadline_s=deadline_s)
    for seconds in learned_s:
        bench.runner.turn_s.learn(1, seconds)
    for count in rows:
        bench.admit(count)
    assert bench.sheds() == {}


class Gate(CountingRuntime):
    """Runs wait for `open`; `begun` is set once one does."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.begun = threading.Event(), threading.Event()

    def run(self, tensors: Tensors) -> Scores:
        """Waits."""
        self.begun.set()
        assert self.open.wait(60)
        return super().run(tensors)


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what another thread has to do."""
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.001)


def test_earliest_due_runs_first() -> None:
    bench = Bench()
    gate = Gate()
    bench.runner = Runner(gate)

    async def ask() -> list[int]:
        first = asyncio.ensure_future(bench.run(0))
        await until(gate.begun.is_set)
        now = time.perf_counter()
        others = [
            asyncio.ensure_future(bench.run(n, deadline=now + s)) for n, s in ((1, 600), (2, 90), (3, 60), (4, 60))
        ]
        await until(lambda: bench.queue.heartbeat().waiting == 4)
        gate.open.set()
        return [await one for one in (first, *others)]

    assert asyncio.run(ask()) == [0, 1, 2, 3, 4]
    bench.queue.close()
    assert gate.runs == [0, 3, 4, 2, 1]


def test_long_deadline_grows_old_in_the_queue() -> None:
    """It is due when half of its time is over: from then on it goes before whoever came later."""
    assert due_at(0.0, 60.0) < due_at(31.0, 31.0 + 1.0)
    assert due_at(0.0, 60.0) > due_at(29.0, 29.0 + 1.0)


def test_only_what_is_due_earlier_keeps_others_out() -> None:
    admission = Admission(Metrics(), max_rows=100_000, patience_s=60.0)
    now = time.perf_counter()
    for _ in range(10):
        admission.enter(Load(200, 2.0), now + 60)
    for _ in range(4):
        admission.enter(Load(10, 0.1), now + 1)
    with pytest.raises(Overloaded, match="are left before the deadline"):
        admission.enter(Load(10, 0.1), now + 1)


@pytest.mark.parametrize(("left_s", "is_taken"), [((), True), ((9.0,), True), ((9.0, 0.1), True), ((9.0, 9.0), False)])
def test_wait_is_for_the_thread_that_is_free_first(left_s: tuple[float, ...], is_taken: bool) -> None:
    """A long run in one thread keeps nobody from another."""
    admission = Admission(Metrics(), max_rows=100, threads=2)
    admission.running = lambda due: Running(left_s, 0.0)
    now = time.perf_counter()
    admission.enter(Load(1, 0.0), now + 600)
    with nullcontext() if is_taken else pytest.raises(Overloaded, match="it would take 9100 ms"):
        admission.check(Load(1, 0.1), now + 1)


@pytest.mark.parametrize(
    ("waiting_s", "left_s", "wait_ms"),
    [(0.4, (), 200), (0.4, (1.0, 0.0), 400), (0.6, (0.5, 0.1), 600), (0.6, (0.0, 0.0, 0.3), 300)],
)
def test_queued_work_is_shared_by_free_threads(waiting_s: float, left_s: tuple[float, ...], wait_ms: int) -> None:
    admission = Admission(Metrics(), max_rows=100, threads=max(2, len(left_s)))
    admission.running = lambda due: Running(left_s, 0.0)
    now = time.perf_counter()
    admission.enter(Load(1, waiting_s), now + 0.05)
    with pytest.raises(Overloaded, match=f"it would take {wait_ms} ms"):
        admission.check(Load(1, 0.0), now + 0.05)


def test_long_deadlines_fill_half_of_the_queue_at_most() -> None:
    admission = Admission(Metrics(), max_rows=100, max_candidates=10, patience_s=1.0)
    now = time.perf_counter()
    for _ in range(5):
        admission.enter(Load(10, 0.0), now + 60)
    with pytest.raises(Overloaded, match="too many for a deadline as long as this"):
        admission.enter(Load(10, 0.0), now + 60)
    for _ in range(5):
        admission.enter(Load(10, 0.0), now + 0.5)
    with pytest.raises(Overloaded, match="too many"):
        admission.enter(Load(1, 0.0), now + 0.5)


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 1), (4, 3)])
def test_spare_jobs_leave_a_thread_free_and_go_last(threads: int, most: int) -> None:
    bench = Bench(threads=threads)
    gate = Gate()
    spare, runner = Runner(gate), bench.runner

    async def ask() -> None:
        far = time.perf_counter() + 60
        asked = [
            asyncio.ensure_future(bench.queue.run(spare, {"x": np.array([n])}, 1, far, lambda: False, is_spare=True))
            for n in range(6)
        ]
        await until(lambda: bench.queue.heartbeat().running == most)
        if threads > 1:
            # Others are scored meanwhile, one after the other by the thread that is left.
            for n in range(20):
                await bench.queue.run(runner, {"x": np.array([n])}, 1, far, lambda: False)
        assert bench.queue.heartbeat().running == most
        gate.open.set()
        await asyncio.gather(*asked)

    asyncio.run(ask())
    bench.queue.close()
    assert gate.most_at_once <= most
    assert sorted(gate.runs) == list(range(6))


def test_long_deadlines_leave_a_thread_to_those_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.scoring.job._RESERVED_S", 1e9)
    bench = Bench(threads=2)
    bench.admission.patience_s = 60.0
    gate = Gate()
    patient, runner = Runner(gate), bench.runner

    async def ask() -> None:
        now = time.perf_counter()
        await bench.run(0, deadline=now + 50)
        asked = [
            asyncio.ensure_future(bench.queue.run(patient, {"x": np.array([n])}, 1, now + 600, lambda: False))
            for n in range(4)
        ]
        await until(lambda: bench.queue.heartbeat().running == 1)
        for n in range(20):
            await bench.queue.run(runner, {"x": np.array([n])}, 1, now + 50, lambda: False)
        assert bench.queue.heartbeat()[1:3] == (1, 3)
        gate.open.set()
        assert len(await asyncio.gather(*asked)) == 4

    asyncio.run(ask())
    bench.queue.close()
    assert gate.most_at_once == 1


def test_short_deadline_behind_a_long_run_is_refused_at_once() -> None:
    bench = Bench()
    gate = Gate()
    bench.runner = Runner(gate)
    for _ in range(10):
        bench.runner.turn_s.learn(1, 5.0)

    async def ask() -> None:
        load, now = Load(1, 5.0), time.perf_counter()
        admitted = bench.admission.enter(load, now + 600)
        running = asyncio.ensure_future(bench.run(1, deadline=now + 600))
        await until(gate.begun.is_set)
        with pytest.raises(Overloaded, match="are left before the deadline"):
            bench.admission.check(load, now + 5)
        gate.open.set()
        await running
        bench.admission.leave(admitted)

    asyncio.run(ask())
    bench.queue.close()


def test_request_behind_a_run_that_never_ends_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    gate = Gate()
    bench.runner = Runner(gate)

    async def ask() -> list[object]:
        stuck = asyncio.ensure_future(bench.run(0, deadline=time.perf_counter() + 0.1))
        await until(gate.begun.is_set)
        behind = bench.run(1, deadline=time.perf_counter() + 0.1)
        found: list[object] = list(await asyncio.gather(stuck, behind, return_exceptions=True))
        beat = bench.queue.heartbeat()
        assert (beat.threads, beat.running, beat.waiting) == (1, 1, 0)
        assert 0 < beat.longest_s <= beat.quiet_s + 1
        bench.queue.close()
        return found

    assert [type(one) for one in asyncio.run(ask())] == [DeadlineExceeded, DeadlineExceeded]
    assert "run_left_behind" in capsys.readouterr().out
    assert bench.sheds() == {"deadline": 2}
    gate.open.set()


def test_idle_queue_has_a_still_heart() -> None:
    bench = Bench(threads=2)
    assert bench.queue.heartbeat() == (2, 0, 0, 0.0, 0.0)
    together(bench, bench.run(1), bench.run(2))
    assert bench.queue.heartbeat() == (2, 0, 0, 0.0, 0.0)
