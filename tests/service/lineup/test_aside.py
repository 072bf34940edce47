"""Steps beside requests: each in a thread that nobody has to wait for by Python's lock, each followed by its rest."""

import asyncio
import os
import threading
import time

import pytest

from service.deployment.aside import Aside

_STEP_S = 0.02


def keep_a_core(seconds: float) -> None:
    """Computes for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def rests_after(rest: float, *seconds: float) -> list[float]:
    """How long is rested after steps that take so long."""
    rests: list[float] = []

    async def note(one: float) -> None:
        rests.append(one)

    async def run() -> None:
        with Aside("test", rest, note) as aside:
            for one in seconds:
                await aside.do(keep_a_core, one)

    asyncio.run(run())
    return rests


def test_a_rest_is_in_proportion_to_its_step_and_bounded() -> None:
    short, long = rests_after(2.0, 0.0, _STEP_S)
    assert 2.0 * _STEP_S <= long <= 0.5
    assert short < long
    assert rests_after(1e9, _STEP_S) == [0.5]
    assert rests_after(0.0, _STEP_S) == []


def test_what_only_waits_takes_nothing_from_others_and_is_not_rested_after() -> None:
    rests: list[float] = []

    async def note(one: float) -> None:
        rests.append(one)

    async def run() -> None:
        with Aside("test", 1.0, note) as aside:
            await aside.do(time.sleep, _STEP_S)

    asyncio.run(run())
    assert rests[0] < _STEP_S


def test_steps_are_taken_in_one_other_thread_of_the_same_priority() -> None:
    def where() -> tuple[int, int]:
        here = threading.get_native_id()
        return here, os.getpriority(os.PRIO_PROCESS, here)

    async def run() -> set[tuple[int, int]]:
        with Aside("test", 0.0) as aside:
            return {await aside.do(where) for _ in range(3)}

    ((thread, priority),) = asyncio.run(run())
    assert thread != threading.get_native_id()
    assert priority == os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_what_a_step_raises_is_raised_and_the_next_one_goes_on() -> None:
    async def run() -> int:
        with Aside("test", 1.0) as aside:
            with pytest.raises(ZeroDivisionError):
                await aside.do(divmod, 1, 0)
            return await aside.do(int, "11", base=2)

    assert asyncio.run(run()) == 3
