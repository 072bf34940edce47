"""Going first changes nothing else of how a thread is scheduled, and ends with its block."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from loadtest.promptness import prompt

_NICE = 3


def standing() -> tuple[int, int]:
    """How this thread is scheduled, and how nice it is."""
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_is_as_nice_as_before() -> None:
    def run() -> list[tuple[int, int]]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        seen = [standing()]
        with prompt():
            seen.append(standing())
        return [*seen, standing()]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == [(os.SCHED_OTHER, _NICE)] * 3
