"""What the best of services could come to on a machine: one that does nothing but run the model, on every core.

So that what is missed can be told from what is not to be had. Measures nothing.
"""

import heapq

import numpy as np

from loadtest.arrivals import poisson

_TURNS = 500_000
_SEED = 0


def throughput_limit(cores: int, run_s: float, rival_rate: float) -> float:
    """Throughput over the rival's of a service that has no time but that of its runs, one a core at a time."""
    return cores / run_s / rival_rate


def latency_limits(servers: int, load: float, percentiles: tuple[float, ...]) -> list[float]:
    """By percentile, how long a request takes that comes by Poisson's law to so many servers with one queue, which are
    busy for `load` of the time and take one unit for each request (M/D/c)."""
    arrivals = poisson(load * servers, _TURNS, _SEED)
    free_at = [0.0] * servers
    taken = np.empty(len(arrivals))
    for place, came in enumerate(arrivals.tolist()):
        ends = max(came, free_at[0]) + 1.0
        heapq.heapreplace(free_at, ends)
        taken[place] = ends - came
    return [float(one) for one in np.percentile(taken, percentiles)]
