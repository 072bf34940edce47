"""Timing of contestants in one process, in blocks and in turns. Knows nothing about graphs.

In a block, a contestant runs several times in sequence with warm caches, as in a service with one model. In turns, each
run follows runs of all others, which have evicted its data. Blocks are short and alternate too, so that other work on
the machine affects all alike.

CPU time is measured, which for one uninterrupted thread equals wall time. On a shared machine wall time would lengthen
long runs further, because they are interrupted more.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

_WARM_UP = 3
_FEWEST = 5
_BLOCK = 20

Run = Callable[[], object]


class Medians(NamedTuple):
    """Median CPU time of a contestant's runs, in microseconds."""

    turns: float
    block: float


def race(runs: Mapping[str, Run], seconds: float) -> dict[str, Medians]:
    """Time each contestant for half of `seconds` in blocks, and for half in turns; at least 5 runs in each form."""
    blocks = _timed(runs, seconds / 2, warm_up=_WARM_UP, counted=_BLOCK)
    turns = _timed(runs, seconds / 2, warm_up=0, counted=1)
    return {name: Medians(turns[name], blocks[name]) for name in runs}


def _timed(runs: Mapping[str, Run], seconds: float, warm_up: int, counted: int) -> dict[str, float]:
    """Return medians over as many rounds as fit into `seconds`. Each round has warm-up and counted runs."""
    taken: dict[str, list[int]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while any(len(times) < _FEWEST for times in taken.values()) or time.perf_counter() < end:
        for name, run in runs.items():
            for _ in range(warm_up):
                run()
            for _ in range(counted):
                start = time.process_time_ns()
                run()
                taken[name].append(time.process_time_ns() - start)
    return {name: float(np.median(times)) / 1e3 for name, times in taken.items()}
