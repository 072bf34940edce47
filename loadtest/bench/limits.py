"""Upper bounds for any service on a machine: one that only runs the model, on every core. Separates missed aims from
unreachable ones. Measures nothing.
"""

import heapq

import numpy as np

from loadtest.arrivals import poisson

_TURNS = 500_000
_SEED = 0


def throughput_limit(cores: int, run_s: float, rival_rate: float) -> float:
    """Return the throughput, relative to the rival's, of a service that only runs the model, one run per core at a
    time."""
    return cores / run_s / rival_rate


def latency_limits(servers: int, load: float, percentiles: tuple[float, ...]) -> list[float]:
    """Return latency percentiles of an M/D/c queue: Poisson arrivals, `servers` with one queue, utilisation `load`,
    service time one."""
    arrivals = poisson(load * servers, _TURNS, _SEED)
    free_at = [0.0] * servers
    taken = np.empty(len(arrivals))
    for place, came in enumerate(arrivals.tolist()):
        ends = max(came, free_at[0]) + 1.0
        heapq.heapreplace(free_at, ends)
        taken[place] = ends - came
    return [float(one) for one in np.percentile(taken, percentiles)]
