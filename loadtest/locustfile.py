"""Locust users that look like an ad server.

LOADTEST_BUNDLE=runs/demo/bundle locust -f loadtest/locustfile.py --host http://127.0.0.1:8080

LOADTEST_CANDIDATES says how many candidates requests have: 200, or shares of several numbers, such as 50:3,200:1.
"""

import os
import sys
from pathlib import Path

from locust import FastHttpUser, constant_throughput, events, task

from loadtest.traffic import Traffic, mix_of
from msd.contract.errors import MsdError

_BUNDLE, _CANDIDATES = "LOADTEST_BUNDLE", "LOADTEST_CANDIDATES"


def _traffic(seed: int) -> Traffic:
    return Traffic(Path(os.environ.get(_BUNDLE, "")), mix_of(os.environ.get(_CANDIDATES, "200")), seed)


def check_settings(**_: object) -> None:
    """Ends Locust before it starts users that would have nothing to ask for."""
    try:
        _traffic(0)
    except MsdError as error:
        sys.exit(f"set {_BUNDLE} to a bundle's folder and {_CANDIDATES} to numbers of candidates: {error}")


events.init.add_listener(check_settings)  # type: ignore[no-untyped-call]


class AdServer(FastHttpUser):
    """One connection that asks for scores ten times a second."""

    wait_time = constant_throughput(10)
    _started = 0

    def on_start(self) -> None:
        """Each user draws its requests from a seed of its own."""
        type(self)._started += 1
        self._bodies = _traffic(self._started).bodies()

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
