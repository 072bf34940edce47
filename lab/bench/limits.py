"""Upper bounds for any service on a machine: one that only runs the model, on every core. Separates missed aims from
unreachable ones. Measures nothing.
"""

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
    taken = np.empty(len(arrivals))
    for server in range(servers):
        # All take equally long, so they end in the order of their arrival, and each server has every c-th of them.
        came = arrivals[server::servers]
        before = np.arange(len(came))
        taken[server::servers] = np.maximum.accumulate(came - before) + before + 1.0 - came
    return [float(one) for one in np.percentile(taken, percentiles)]
