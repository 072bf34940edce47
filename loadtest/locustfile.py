"""Locust users that look like an ad server.

LOADTEST_BUNDLE=runs/demo/bundle locust -f loadtest/locustfile.py --host http://127.0.0.1:8080

LOADTEST_CANDIDATES: how many candidates requests have, 200 or shares of several numbers, such as 50:3,200:1.
"""

import os
import sys
from pathlib import Path

from locust import FastHttpUser, constant_throughput, events, task

from loadtest.requests import SCORE
from loadtest.traffic import Traffic, mix_of
from msd.contract.errors import MsdError

BUNDLE, CANDIDATES = "LOADTEST_BUNDLE", "LOADTEST_CANDIDATES"


def traffic_of(seed: int) -> Traffic:
    """Return the requests of one user. Raises MsdError for an invalid variable."""
    return Traffic(Path(os.environ.get(BUNDLE, "")), mix_of(os.environ.get(CANDIDATES, "200")), seed)


def check_settings(**_: object) -> None:
    """Stop Locust before it starts users with invalid settings."""
    try:
        traffic_of(0)
    except MsdError as error:
        sys.exit(f"set {BUNDLE} to a bundle's folder and {CANDIDATES} to numbers of candidates: {error}")


events.init.add_listener(check_settings)  # type: ignore[no-untyped-call]


class AdServer(FastHttpUser):
    """One connection with ten scoring requests per second."""

    wait_time = constant_throughput(10)
    _started = 0

    def on_start(self) -> None:
        """Give each user a seed of its own."""
        type(self)._started += 1
        self._bodies = traffic_of(self._started).bodies()

    @task
    def score(self) -> None:
        """Send one scoring request."""
        headers = {"Content-Type": "application/json"}
        with self.client.post(SCORE, data=next(self._bodies).decode(), headers=headers, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}: {reply.text[:200]}")
