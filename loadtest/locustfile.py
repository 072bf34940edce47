"""Locust users that look like an ad server.

LOADTEST_BUNDLE=runs/demo/bundle locust -f loadtest/locustfile.py --host http://127.0.0.1:8080

What they ask is set by variables: LOADTEST_CANDIDATES, how many candidates requests have, 200 or shares of several
numbers, such as 50:3,200:1; LOADTEST_COLD, the share of candidates that are ads with a text, known to no store;
LOADTEST_DEADLINE_MS, how long a reply may take; LOADTEST_SHAPE, `bursts` or `steps`, how many users there are when,
instead of Locust's --users.
"""

import os
import sys
from pathlib import Path

from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task

from loadtest.traffic import Traffic, mix_of
from msd.contract.errors import MsdError

_BUNDLE, _CANDIDATES, _COLD = "LOADTEST_BUNDLE", "LOADTEST_CANDIDATES", "LOADTEST_COLD"
_DEADLINE, _SHAPE = "LOADTEST_DEADLINE_MS", "LOADTEST_SHAPE"
_PERIOD_S, _BURST_S = 20.0, 4.0
_FEW, _MANY = 5, 40


def _number(name: str, default: str, most: float) -> float:
    """Return a variable's number. Raises MsdError if it is not from 0 to `most`."""
    text = os.environ.get(name) or default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise MsdError(f"{name}={text}: has to be a number from 0 to {most:g}")
    return value


def _traffic(seed: int) -> Traffic:
    mix = mix_of(os.environ.get(_CANDIDATES, "200"))
    return Traffic(Path(os.environ.get(_BUNDLE, "")), mix, seed, _number(_COLD, "0", 1.0))


def _headers() -> dict[str, str]:
    deadline = _number(_DEADLINE, "0", 1e6)
    return {"Content-Type": "application/json"} | ({"X-Deadline-Ms": f"{deadline:.0f}"} if deadline else {})


def _shape() -> str:
    name = os.environ.get(_SHAPE, "")
    if name not in ("", "bursts", "steps"):
        raise MsdError(f"{_SHAPE}={name}: has to be bursts or steps")
    return name


def check_settings(**_: object) -> None:
    """Stop Locust before it starts users with invalid settings."""
    try:
        _shape()
        _headers()
        _traffic(0)
    except MsdError as error:
        sys.exit(f"set {_BUNDLE} to a bundle's folder and {_CANDIDATES} to numbers of candidates: {error}")


events.init.add_listener(check_settings)  # type: ignore[no-untyped-call]


class AdServer(FastHttpUser):
    """One connection with ten scoring requests per second."""

    wait_time = constant_throughput(10)
    _started = 0

    def on_start(self) -> None:
        """Give each user a seed of its own."""
        type(self)._started += 1
        self._bodies, self._headers = _traffic(self._started).bodies(), _headers()

    @task
    def score(self) -> None:
        """One scoring request."""
        with self.client.post(
            "/v1/score", data=next(self._bodies).decode(), headers=self._headers, catch_response=True
        ) as reply:
            if reply.status_code != 200:
                reply.failure(f"{reply.status_code}: {reply.text[:200]}")


def users_at(shape: str, seconds: float) -> int:
    """Return a shape's number of users at a time: a few with bursts of many, or increasing in steps."""
    if shape == "bursts":
        return _MANY if seconds % _PERIOD_S >= _PERIOD_S - _BURST_S else _FEW
    return _FEW * (1 + int(seconds / _PERIOD_S))


if os.environ.get(_SHAPE) in ("bursts", "steps"):
    # Locust uses any shape class that it finds.
    class Shape(LoadTestShape):
        """The number of users over time, until --run-time ends it."""

        use_common_options = True

        def tick(self) -> tuple[int, float] | None:
            """Return the current users and the spawn rate."""
            options = self.runner.environment.parsed_options if self.runner else None
            now: float = self.get_run_time()  # type: ignore[no-untyped-call]
            is_over = options and options.run_time and now >= options.run_time
            return None if is_over else (users_at(_shape(), now), float(_MANY))
