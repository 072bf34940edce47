"""The scoring threads and their queue: order, overlap, dropped jobs, failures, cancellation."""

import asyncio
import ctypes
import gc
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ClientGone, DeadlineExceeded
from service.scoring.engine import Done, Job, Runner
from tests.service.bench import Bench, CountingRuntime
from tests.service.redis_rows import until


def together(bench: Bench, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """Results and errors of what runs at the same time."""

    async def gather() -> list[Any]:
        found = await asyncio.gather(*coroutines, return_exceptions=True)
        bench.engine.close()
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


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_runs_overlap_as_there_are_threads(threads: int) -> None:
    bench = Bench(threads=threads)
    bench.runtime.may_go_on = lambda: bench.runtime.most_at_once == threads
    assert together(bench, *(bench.run(value) for value in range(3 * threads))) == list(range(3 * threads))


def test_abandoned_or_late_work_never_runs() -> None:
    bench = Bench()
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
    bench.engine.close()
    assert bench.runtime.runs == [0, 3, 7]


def test_closing_ends_what_waits() -> None:
    bench = Bench()
    is_closed = threading.Event()
    bench.runtime.may_go_on = is_closed.is_set

    async def close() -> list[Any]:
        tasks = [asyncio.ensure_future(bench.run(value)) for value in range(3)]
        await bench.begins()
        # A run that has begun is waited for.
        threading.Timer(0.05, is_closed.set).start()
        bench.engine.close()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(asyncio.CancelledError):
            await bench.run(3)
        return found

    found = asyncio.run(close())
    assert bench.runtime.runs == [0]
    assert [type(error) for error in found[1:]] == [asyncio.CancelledError] * 2


def test_jobs_end_leaves_nothing_of_it_behind() -> None:
    """Work that holds its job is let go of at once: it may hold a model that serves no more."""
    bench, kept = Bench(), weakref.WeakSet[object]()
    outcomes: list[type] = []
    waiting: list[asyncio.Task[None]] = []

    class Held:
        """What work holds."""

    def put(seconds: float) -> None:
        held = Held()
        kept.add(held)
        until = time.perf_counter() + seconds
        job: Job[object] = Job(lambda: (job.native, held), bench.runner, 1, until)
        waiting.append(asyncio.ensure_future(note(job)))

    async def note(job: Job[object]) -> None:
        try:
            outcomes.append(type(await bench.engine.do(job)))
        except DeadlineExceeded as error:
            outcomes.append(type(error))

    async def wait() -> None:
        gc.disable()
        try:
            put(60)
            put(-1)
            end = time.monotonic() + 60
            while (kept or len(outcomes) < 2) and time.monotonic() < end:
                await asyncio.sleep(0.001)
            assert not kept
        finally:
            gc.enable()

    asyncio.run(wait())
    bench.engine.close()
    assert set(outcomes) == {Done, DeadlineExceeded}


def test_close_keeps_the_callers_state_in_python() -> None:
    """Without it, an extension that takes Python's lock ends the process."""
    bench = Bench()
    together(bench, bench.run(1))
    state_of_thread = ctypes.pythonapi.PyGILState_GetThisThreadState
    state_of_thread.restype = ctypes.c_void_p
    assert state_of_thread()


def test_error_while_a_job_is_judged_costs_that_job_alone() -> None:
    bench = Bench()

    def is_gone() -> bool:
        raise ValueError("of the client")

    found = together(bench, bench.run(1), bench.run(2, is_gone=is_gone), bench.run(3))
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], ValueError)


@pytest.mark.parametrize(("left_s", "runs"), [((600, 90, 60, 60), [0, 3, 4, 2, 1]), ((40, 41, 39), [0, 3, 1, 2])])
def test_earliest_due_runs_first(left_s: tuple[int, ...], runs: list[int]) -> None:
    """A long deadline is due when half of its time is over: from then on it precedes later requests."""
    bench, is_open = Bench(), threading.Event()
    bench.runtime.may_go_on = is_open.is_set

    async def ask() -> list[int]:
        first = asyncio.ensure_future(bench.run(0))
        await bench.begins()
        now = time.perf_counter()
        others = [asyncio.ensure_future(bench.run(n, deadline=now + s)) for n, s in enumerate(left_s, 1)]
        await until(lambda: bench.engine.heartbeat().waiting == len(left_s))
        is_open.set()
        return [await task for task in (first, *others)]

    assert asyncio.run(ask()) == list(range(len(left_s) + 1))
    bench.engine.close()
    assert bench.runtime.runs == runs


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 1), (4, 3)])
def test_spare_jobs_leave_a_thread_free_and_go_last(threads: int, most: int) -> None:
    bench, gate, is_open = Bench(threads=threads), CountingRuntime(), threading.Event()
    gate.may_go_on = is_open.is_set
    spare, runner = Runner(gate), bench.runner

    async def ask() -> None:
        far = time.perf_counter() + 60
        asked = [
            asyncio.ensure_future(bench.engine.run(spare, {"x": np.array([n])}, 1, far, lambda: False, is_spare=True))
            for n in range(6)
        ]
        await until(lambda: bench.engine.heartbeat().running == most)
        if threads > 1:
            # Others are scored meanwhile, one after the other by the thread that is left.
            for n in range(20):
                await bench.engine.run(runner, {"x": np.array([n])}, 1, far, lambda: False)
        assert bench.engine.heartbeat().running == most
        is_open.set()
        await asyncio.gather(*asked)

    asyncio.run(ask())
    bench.engine.close()
    assert gate.most_at_once <= most
    assert sorted(gate.runs) == list(range(6))


def test_long_deadlines_leave_a_thread_to_those_in_a_hurry() -> None:
    bench, gate, is_open = Bench(threads=2), CountingRuntime(), threading.Event()
    bench.engine.native.reserve(1e9)
    gate.may_go_on = is_open.is_set
    patient, runner = Runner(gate), bench.runner

    async def ask() -> None:
        now = time.perf_counter()
        await bench.run(0, deadline=now + 50)
        asked = [
            asyncio.ensure_future(bench.engine.run(patient, {"x": np.array([n])}, 1, now + 600, lambda: False))
            for n in range(4)
        ]
        await until(lambda: bench.engine.heartbeat().running == 1)
        for n in range(20):
            await bench.engine.run(runner, {"x": np.array([n])}, 1, now + 50, lambda: False)
        assert bench.engine.heartbeat()[1:3] == (1, 3)
        is_open.set()
        assert len(await asyncio.gather(*asked)) == 4

    asyncio.run(ask())
    bench.engine.close()
    assert gate.most_at_once == 1
