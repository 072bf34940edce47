"""When requests come, whatever the service does: seconds from the start of a run, in order. Knows no requests."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Arrivals = Callable[[float, float, int], Times]
"""Of a rate a second, for so many seconds, by a seed."""


def constant(rate: float, seconds: float, seed: int = 0) -> Times:
    """One every 1 / rate seconds."""
    return np.arange(int(rate * seconds)) / rate


def poisson(rate: float, seconds: float, seed: int = 0) -> Times:
    """Each on its own: the time between two has an exponential distribution."""
    rng = np.random.default_rng(seed)
    # Given their number, the times of a Poisson process are uniform.
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def bursts(rate: float, seconds: float, seed: int = 0, size: int = 8) -> Times:
    """`size` at one moment, such moments as a Poisson process."""
    return np.repeat(poisson(rate / size, seconds, seed), size)
