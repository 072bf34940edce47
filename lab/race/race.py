"""Timing of contestants in one process, in turns, so that other work on the machine affects all alike. Knows nothing
about graphs.

CPU time is measured, which for one uninterrupted thread equals wall time. On a shared machine wall time would lengthen
long runs further, because they are interrupted more.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np

_WARM_UP = 3
_FEWEST = 5

Run = Callable[[], object]


def race(runs: Mapping[str, Run], seconds: float) -> dict[str, float]:
    """Return the median microseconds of each contestant, over as many turns as fit into `seconds`, at least 5."""
    taken: dict[str, list[int]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    end = time.perf_counter() + seconds
    while any(len(times) < _FEWEST for times in taken.values()) or time.perf_counter() < end:
        for name, run in runs.items():
            start = time.process_time_ns()
            run()
            taken[name].append(time.process_time_ns() - start)
    return {name: float(np.median(times)) / 1e3 for name, times in taken.items()}
