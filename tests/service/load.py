"""Clients that score without a pause, and what is queued meanwhile."""

import threading
from collections import Counter

import httpx

from tests.bundles.factory import golden_requests
from tests.service.live import PAUSE_S, LiveService, wait_until


def wait_for_rows(service: LiveService, rows: int) -> None:
    """Until so many candidates are waiting or at work."""
    wait_until(lambda: service.metric("msd_queued_rows") == rows)


class Load:
    """Clients that score without pause, each with a kept connection that it opens anew when told to close.

    A request is lost when its connection was made and no whole reply came. A refused connection is no loss: the
    client knows at once, and goes elsewhere.
    """

    def __init__(self, service: LiveService, clients: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.lost: list[str] = []
        self.refused: list[str] = []
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self) -> None:
        with self._service.client() as client:
            while not self._stop.wait(PAUSE_S):
                try:
                    answer = client.post("/v1/score", json=golden_requests()[0])
                    assert answer.json()["candidates" if answer.status_code == 200 else "error"]
                    self.statuses[answer.status_code] += 1
                except httpx.ConnectError as error:
                    self.refused.append(repr(error))
                    return
                except Exception as error:
                    self.lost.append(repr(error))
                    return
