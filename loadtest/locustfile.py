"""Locust users that look like an ad server.

LOADTEST_BUNDLE=runs/demo/bundle locust -f loadtest/locustfile.py --host http://127.0.0.1:8080

What they ask is set by variables: LOADTEST_CANDIDATES, how many candidates requests have, 200 or shares of several
numbers, such as 50:3,200:1; LOADTEST_COLD, the share of candidates that are ads with a text, known to no store;
LOADTEST_DEADLINE_MS, how long a reply may take; LOADTEST_ROUTE, `openrtb` to send BidRequests; LOADTEST_SHAPE,
`bursts` or `steps`, how many users there are when, instead of Locust's --users.
"""

import os
import sys

from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task

from loadtest.locust_settings import BUNDLE, CANDIDATES, MANY, SHAPE, SHAPES, LocustSettings, users_at
from loadtest.requests import OPENRTB, SCORE, Route, as_bid_request
from msd.contract.errors import MsdError


def check_settings(**_: object) -> None:
    """Stop Locust before it starts users with invalid settings."""
    try:
        LocustSettings.from_environ(os.environ).traffic(0)
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
        self._settings = LocustSettings.from_environ(os.environ)
        self._traffic = self._settings.traffic(self._started)
        self._bodies = self._traffic.bodies()

    @task
    def score(self) -> None:
        """Send one scoring request."""
        path, body, headers = SCORE, next(self._bodies), dict(self._settings.headers)
        if self._settings.route is Route.OPENRTB:
            path, body = OPENRTB, as_bid_request(body, self._traffic.mapping)
        with self.client.post(path, data=body.decode(), headers=headers, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}: {reply.text[:200]}")


if os.environ.get(SHAPE) in SHAPES:
    # Locust uses any shape class that it finds.
    class Shape(LoadTestShape):
        """The number of users over time, until --run-time ends it."""

        use_common_options = True

        def tick(self) -> tuple[int, float] | None:
            """Return the current users and the spawn rate."""
            options = self.runner.environment.parsed_options if self.runner else None
            now: float = self.get_run_time()  # type: ignore[no-untyped-call]
            is_over = options and options.run_time and now >= options.run_time
            return None if is_over else (users_at(os.environ[SHAPE], now), float(MANY))
