"""What so many requests a second need, computed from what one takes. Measures nothing."""

import math
from typing import NamedTuple


class RequestCost(NamedTuple):
    """What one request of `candidates` candidates takes: seconds at the median and of processor; memory in bytes."""

    candidates: int
    p50_s: float
    cpu_s: float
    memory: int


class Assumed(NamedTuple):
    """What is not measured: a fleet's size, how busy its cores may be, and prices in dollars."""

    requests_per_s: float = 1_000_000
    busy: float = 0.5
    """Of a core: with half of it, arrivals that vary leave p99 near what it is at rest."""
    cores_a_machine: int = 64
    core_hour: float = 0.04


class Capacity(NamedTuple):
    """Cores and machines; memory of the fleet in bytes; dollars."""

    cores: int
    machines: int
    memory: float
    per_hour: float
    per_million: float


def capacity(spent: RequestCost, assumed: Assumed) -> Capacity:
    """What a way to score needs for all of the requests. Each core has a process of its own, with its own memory."""
    cores = math.ceil(assumed.requests_per_s * spent.cpu_s / assumed.busy)
    per_hour = cores * assumed.core_hour
    return Capacity(
        cores,
        math.ceil(cores / assumed.cores_a_machine),
        float(cores) * spent.memory,
        per_hour,
        per_hour / (assumed.requests_per_s * 3600 / 1e6),
    )
