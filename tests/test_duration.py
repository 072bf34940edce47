"""Estimates grow with the work."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from msd.duration import Machine, PartRows, about, evaluating, exporting, tokens_of, training

REFERENCE = Machine(1.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "5 s"), (43, "45 s"), (55, "1 min"), (200, "3 min"), (1_500, "25 min"), (9_000, "2.5 h")],
)
def test_durations_are_rounded(seconds: float, text: str) -> None:
    assert about(seconds) == f"about {text} on this machine"


def test_more_work_takes_longer_and_so_does_a_slower_machine() -> None:
    few, many = PartRows(1_000, 100, 100), PartRows(100_000, 10_000, 10_000)
    estimates: list[Callable[[Machine, PartRows], float]] = [
        lambda machine, rows: training(machine, rows, 8),
        lambda machine, rows: evaluating(machine, rows, 2, 1_000),
        lambda machine, rows: exporting(machine, rows, 2_400),
    ]
    for work in estimates:
        assert 0 < work(REFERENCE, few) < work(REFERENCE, many)
        assert work(Machine(3.0), many) == pytest.approx(3 * work(REFERENCE, many))
    assert training(REFERENCE, many, 8) < training(REFERENCE, many, 20)


def test_machine_is_slower_beside_other_work() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # which child processes inherit
    busy: list[subprocess.Popen[bytes]] = []
    try:
        alone = Machine.measured().slowness
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(20)]
        beside = Machine.measured().slowness
    finally:
        os.sched_setaffinity(0, cores)
        for process in busy:
            process.kill()
            process.wait()
    assert 0 < alone < beside < 1e6


def test_long_texts_are_cut_like_the_student_cuts_them() -> None:
    assert tokens_of(["word " * 1_000]) == 128
    assert 3 < tokens_of(["two words"]) < 8
