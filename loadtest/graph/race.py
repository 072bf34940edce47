"""Times contestants against each other in one process: one run of each in turn, again and again, so that what else the
machine does slows all alike. Knows nothing of graphs.

What is counted is the CPU's time, which for one thread that nobody interrupts is the clock's. On a shared machine the
clock would make long runs longer yet, because more of them are interrupted.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np

_WARM_UP = 3
_FEWEST = 5

Run = Callable[[], object]


def race(runs: Mapping[str, Run], seconds: float) -> dict[str, float]:
    """The median CPU time of each, in microseconds, over as many rounds as fit into `seconds`, and at least five."""
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    taken: dict[str, list[int]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < _FEWEST or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.process_time_ns()
            run()
            taken[name].append(time.process_time_ns() - start)
        rounds += 1
    return {name: float(np.median(times)) / 1e3 for name, times in taken.items()}
