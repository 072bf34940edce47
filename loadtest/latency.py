"""How long a service takes, seen from one client that sends the next request when it has the last reply.

A closed loop: it shows the latency of a service at rest, not what queues do to it under arrivals.
"""

from collections.abc import Callable, Iterable

from loadtest.durations import Durations
from loadtest.http_client import Client


def measure_latency(url: str, bodies: Iterable[bytes], warmup: int, progress: Callable[[int], None]) -> Durations:
    """The time of each request after the first `warmup`; progress: called with each one's number, from 0, before it.

    Raises ClientError at any reply but 200.
    """
    durations = Durations()
    with Client(url) as client:
        for number, body in enumerate(bodies):
            progress(number)
            reply = client.scored(body)
            if number >= warmup:
                durations.record(reply.seconds)
    return durations
