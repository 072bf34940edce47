"""Locust users that look like an ad server.

LOADTEST_BUNDLE=runs/demo/bundle locust -f loadtest/locustfile.py --host http://127.0.0.1:8080
"""

import os
from pathlib import Path

from locust import FastHttpUser, constant_throughput, task
from locust.exception import StopTest

from loadtest.traffic import Traffic
from msd.contract.errors import MsdError

_BUNDLE, _CANDIDATES = "LOADTEST_BUNDLE", "LOADTEST_CANDIDATES"


class AdServer(FastHttpUser):
    """One connection that asks for scores ten times a second."""

    wait_time = constant_throughput(10)
    _started = 0

    def on_start(self) -> None:
        """Opens the bundle whose users and items the requests name; each user draws from its own seed."""
        type(self)._started += 1
        try:
            folder, candidates = Path(os.environ[_BUNDLE]), int(os.environ.get(_CANDIDATES, "200"))
            self._bodies = Traffic(folder, candidates, seed=self._started).bodies()
        except (KeyError, ValueError, MsdError) as error:
            raise StopTest(f"set {_BUNDLE} to a bundle's folder and {_CANDIDATES} to a number: {error!r}") from error

    @task
    def score(self) -> None:
        """One scoring request."""
        with self.client.post(
            "/v1/score",
            data=next(self._bodies).decode(),
            headers={"Content-Type": "application/json"},
            catch_response=True,
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}: {reply.text[:200]}")
