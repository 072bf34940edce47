"""Converts outcomes to reported figures. Measures nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lab.bench.rounds import Rounds, goodput, p50_ms
from loadtest.outcome import Outcome
from loadtest.stages import StageSeconds
from loadtest.traffic import poisson

_TURNS = 500_000


class StoreRounds(NamedTuple):
    """Both services over one kind of store, by kind: rounds at capacity and with one client; and our service's own time
    at capacity and with one client."""

    throughput: Mapping[str, Rounds]
    latency: Mapping[str, Rounds]
    spent_at_capacity: StageSeconds
    spent: StageSeconds


def store_figures(store: StoreRounds) -> dict[str, Any]:
    """Return each service's throughput and latency; of ours, their ratios to the naive one's and where time goes."""
    figures: dict[str, Any] = {
        kind: {
            "requests_per_s": _round(throughput.median(goodput)),
            "p50_ms": _round(store.latency[kind].median(p50_ms)),
            "p99_ms": _round(store.latency[kind].latency.percentile_ms(99)),
        }
        for kind, throughput in store.throughput.items()
    }
    spent, latency, mean_ms = store.spent, store.latency, store.latency["ours"].latency.mean_ms
    return figures | {
        "throughput_ratio": _round(store.throughput["ours"].ratio(store.throughput["naive"], goodput)),
        "p50_ratio": _round(latency["naive"].ratio(latency["ours"], p50_ms)),
        # Outside the model's run, as the service measures it and as the client does.
        "overhead_share": _round(1 - spent.seconds["run"] / spent.seconds["request"]),
        "overhead_share_client": _round(1 - spent.mean_ms("run") / mean_ms),
        "stages_ms": spent.as_json(mean_ms),
    }


def arrival_figures(capacity: float, at70: Outcome, overload: Outcome, rest_ms: float) -> dict[str, Any]:
    """Return a service's figures under arrivals; `rest_ms` is its median latency with one client."""
    return {
        "p99_over_p50": _round(at70.latency.percentile_ms(99) / rest_ms),
        "overload_goodput": _round(overload.goodput / capacity),
        "overload_p99_ms": _round(overload.latency.percentile_ms(99)),
        "capacity": _round(capacity),
        "at_70_percent": at70.as_json(),
        "at_200_percent": overload.as_json(),
    }


def limits(store: StoreRounds, cores: int, servers: int, load: float) -> dict[str, float]:
    """Return bounds for any service on the machine, one that only runs the model, on every core: of the throughput
    ratio from above, of tail latencies from below. They separate missed aims from unreachable ones."""
    # The shortest: a core may be slow after idling or when shared.
    run_s = min(spent.mean_ms("run") for spent in (store.spent, store.spent_at_capacity)) / 1e3
    found = {
        "throughput_ratio": cores / run_s / store.throughput["naive"].median(goodput),
        "p99_over_p50": latency_limit(servers, load, 99),
    }
    return {name: _round(value) for name, value in found.items()}


def latency_limit(servers: int, load: float, percent: float) -> float:
    """Return a latency percentile of an M/D/c queue: Poisson arrivals, `servers` with one queue, utilisation `load`,
    service time one."""
    arrivals = poisson(load * servers, _TURNS, seed=0)
    latency = np.empty(len(arrivals))
    for server in range(servers):
        # All take equally long, so they end in the order of their arrival, and each server has every c-th of them.
        own = arrivals[server::servers]
        before = np.arange(len(own))
        latency[server::servers] = np.maximum.accumulate(own - before) + before + 1.0 - own
    return float(np.percentile(latency, percent))


def _round(value: float) -> float:
    return round(value, 4)
