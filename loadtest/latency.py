"""Latency of one client in a closed loop: that of a service at rest, without queueing."""

from collections.abc import Callable, Iterable

from loadtest.durations import Durations
from loadtest.http_client import ServiceConnection
from loadtest.routes import SCORE


def measure_latency(
    url: str, bodies: Iterable[bytes], warmup: int, progress: Callable[[int], None], path: str = SCORE
) -> Durations:
    """Return the time of each request after the first `warmup`; progress: called with each index before its request.
    Raises ClientError for any reply but 200."""
    durations = Durations()
    with ServiceConnection(url) as client:
        for number, body in enumerate(bodies):
            progress(number)
            reply = client.post(path, body)
            reply.check(200, url)
            if number >= warmup:
                durations.record(reply.seconds)
    return durations
