"""Times of a graph's runs, measured in turns, so that other load on the machine slows all alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from msd.contract.tensors import Tensors

Name = TypeVar("Name", bound=str)
_ROUNDS = 40
_LONGEST_S = 1.0


def median_microseconds(runs: Mapping[Name, Callable[[Tensors], object]], tensors: Tensors) -> dict[Name, float]:
    """Return the median microseconds of each run, over 40 rounds or those of one second, after one to warm up."""
    taken: dict[Name, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(tensors)
    end = time.perf_counter() + _LONGEST_S
    for _ in range(_ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(tensors)
            taken[name].append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return {name: float(np.median(times)) * 1e6 for name, times in taken.items()}
