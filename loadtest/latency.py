"""How long a service takes, seen from one client that sends the next request when it has the last reply.

A closed loop: it shows the latency of a service at rest, not what queues do to it under arrivals.
"""

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import numpy as np

from loadtest.http_client import Client, ClientError
from loadtest.traffic import Traffic


class Latency(NamedTuple):
    """Percentiles in milliseconds over `requests` requests of `candidates` candidates each, or of a mix of them."""

    requests: int
    candidates: int | str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def measure_latency(
    url: str, traffic: Traffic, candidates: int | str, requests: int, warmup: int, progress: Callable[[], None]
) -> Latency:
    """Latency of `requests` requests after `warmup` that do not count. Raises ClientError at any reply but 200."""
    seconds = []
    with Client(url) as client:
        for number, body in enumerate(islice(traffic.bodies(), warmup + requests)):
            reply = client.score(body)
            if reply.status != 200:
                raise ClientError(f"{url}: answered {reply.status}: {reply.body[:300].decode(errors='replace')}")
            if number >= warmup:
                seconds.append(reply.seconds)
            progress()
    p50, p95, p99 = (float(value) for value in np.percentile(np.array(seconds) * 1e3, [50, 95, 99]))
    return Latency(requests, candidates, p50, p95, p99, max(seconds) * 1e3)
