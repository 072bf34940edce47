"""Arrival times of an open loop: seconds from the start of a run, in order. Knows no requests."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Arrivals = Callable[[float, float, int], Times]
"""Returns arrival times for a rate per second, a duration and a seed."""


def constant(rate: float, seconds: float, seed: int = 0) -> Times:
    """Return one arrival every 1 / rate seconds."""
    return np.arange(int(rate * seconds)) / rate


def poisson(rate: float, seconds: float, seed: int = 0) -> Times:
    """Return independent arrivals: the gaps are exponentially distributed."""
    rng = np.random.default_rng(seed)
    # Given their number, the times of a Poisson process are uniform.
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def bursts(rate: float, seconds: float, seed: int = 0, size: int = 8) -> Times:
    """Return bursts of `size` at the times of a Poisson process."""
    return np.repeat(poisson(rate / size, seconds, seed), size)
