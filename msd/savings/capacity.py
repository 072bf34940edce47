"""Capacity for a request rate, computed from the cost of one request. Measures nothing."""

import math
from typing import NamedTuple


class RequestCost(NamedTuple):
    """Cost of one request of `candidates` candidates: median seconds, CPU seconds, and memory in bytes."""

    candidates: int
    p50_s: float
    cpu_s: float
    memory: int


class Assumed(NamedTuple):
    """Assumptions: request rate, utilisation of cores, machines, and prices in dollars."""

    requests_per_s: float = 1_000_000
    busy: float = 0.5
    """Utilisation of a core: at one half, varying arrivals leave p99 near that of an idle service."""
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
    """Return the capacity needed at a cost per request, with one process per core, each with its own memory."""
    cores = math.ceil(assumed.requests_per_s * spent.cpu_s / assumed.busy)
    per_hour = cores * assumed.core_hour
    return Capacity(
        cores,
        math.ceil(cores / assumed.cores_a_machine),
        float(cores) * spent.memory,
        per_hour,
        per_hour / (assumed.requests_per_s * 3600 / 1e6),
    )
