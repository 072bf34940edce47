"""The scoring threads and their queue: order, overlap, late jobs, failures."""

import asyncio
import ctypes
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.bundle import Bundle
from tests.service.bench import FAILS, Bench, CountingRuntime
from tests.service.fronted import Answer, deployed
from tests.service.redis_rows import until


def together(bench: Bench, bundle: Bundle, *counts: int) -> list[Answer]:
    """The answers to requests that come at the same time."""

    async def gather() -> list[Answer]:
        async with bench.served(bundle):
            return await asyncio.gather(*map(bench.ask, counts))

    return asyncio.run(gather())


def scores_of(answer: Answer) -> list[float]:
    found: list[float] = answer.document["candidates"]["pctr"]
    return found


@settings(max_examples=10)
@given(st.lists(st.integers(1, FAILS), min_size=1, max_size=40), st.integers(1, 4))
def test_each_request_gets_its_own_result_and_a_failing_run_fails_alone(
    bundle: Bundle, counts: list[int], threads: int
) -> None:
    bench = Bench(max_rows=10_000, threads=threads)
    found = together(bench, bundle, *counts)

    assert sorted(bench.runtime.runs) == sorted(counts)
    assert bench.runtime.most_at_once <= threads
    for count, answer in zip(counts, found, strict=True):
        assert answer.status == (500 if count == FAILS else 200)
        if count != FAILS:
            assert scores_of(answer) == pytest.approx([count / 100] * count)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_as_many_runs_overlap_as_there_are_threads(bundle: Bundle, threads: int) -> None:
    bench = Bench(threads=threads)
    bench.runtime.may_go_on = lambda: bench.runtime.most_at_once == threads
    assert [answer.status for answer in together(bench, bundle, *range(1, 1 + 3 * threads))] == [200] * 3 * threads


def test_late_request_never_runs(bundle: Bundle) -> None:
    bench, go_on = Bench(), threading.Event()
    bench.runtime.may_go_on = go_on.is_set

    async def ask() -> Answer:
        async with bench.served(bundle):
            first = bench.asks(1)
            await bench.begins()
            found = await bench.ask(2, deadline_s=0.05)
            go_on.set()
            await first
        return found

    found = asyncio.run(ask())
    assert (found.status, found.document["error"]["code"]) == (504, "deadline_exceeded")
    assert bench.runtime.runs == [1]


def test_close_keeps_the_callers_state_in_python(bundle: Bundle) -> None:
    """Without it, an extension that takes Python's lock ends the process."""
    together(Bench(), bundle, 1)
    state_of_thread = ctypes.pythonapi.PyGILState_GetThisThreadState
    state_of_thread.restype = ctypes.c_void_p
    assert state_of_thread()


@pytest.mark.parametrize(("left_s", "runs"), [((600, 90, 60, 60), [9, 3, 4, 2, 1]), ((40, 55, 25), [9, 3, 1, 2])])
def test_earliest_due_runs_first(bundle: Bundle, left_s: tuple[int, ...], runs: list[int]) -> None:
    """A long deadline is due when half of its time is over: from then on it precedes later requests."""
    bench, is_open = Bench(), threading.Event()
    bench.runtime.may_go_on = is_open.is_set

    async def ask() -> list[int]:
        async with bench.served(bundle):
            asked = [bench.asks(9)]
            await bench.begins()
            for place, seconds in enumerate(left_s, 1):
                asked.append(bench.asks(place, seconds))
                await bench.waits(place)
            is_open.set()
            return [(await task).status for task in asked]

    assert asyncio.run(ask()) == [200] * (1 + len(left_s))
    assert bench.runtime.runs == runs


def test_long_deadlines_leave_a_thread_to_those_in_a_hurry(bundle: Bundle) -> None:
    bench, gate, is_open = Bench(threads=2), CountingRuntime(), threading.Event()
    bench.engine.native.reserve(1e9)
    gate.may_go_on = is_open.is_set

    async def ask() -> None:
        async with bench.served(bundle):
            hasty = bench.fronted.serving.current
            await bench.ask(1, 50)
            bench.fronted.swap(deployed([bench.model(gate)]))
            asked = [bench.asks(count, 600) for count in range(1, 5)]
            await until(lambda: (beat := bench.engine.heartbeat()).running == 1 and beat.waiting == 3)
            bench.fronted.swap(hasty)
            for count in range(1, 21):
                await bench.ask(count, 50)
            # A reply is sent before its thread is free again.
            await until(lambda: (beat := bench.engine.heartbeat()).running == 1 and beat.waiting == 3)
            is_open.set()
            assert len(await asyncio.gather(*asked)) == 4

    asyncio.run(ask())
    assert gate.most_at_once == 1
