"""The machine's clock jumps by a day, by years, and back, under load: nothing but the ages of counts knows of it.

A process's own clock cannot be set for it from outside; so the service is run with a module before all others that adds
to what `time.time` says the number of seconds that a file holds.
"""

import json
from itertools import pairwise
from pathlib import Path

from loadtest.chaos.environment import Environment, metric
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, usual_checks
from loadtest.chaos.timeline import FIVES, SCORED, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import Client
from loadtest.requests import http_request

_NAME = "clock-jump"
_DAY = 86_400.0
_JUMPS = (("a day on", _DAY), ("ten years on", 3_650 * _DAY), ("ten years back", -3_650 * _DAY), ("as it was", 0.0))
_BYTES = 20
_SHIFTED = '''"""Adds to the clock what a file says, which may change at any time. Many threads ask at once."""

import os
import time

_FILE = os.open({path!r}, os.O_RDONLY)
_time = time.time


def _shifted() -> float:
    return _time() + float(os.pread(_FILE, {size}, 0))


time.time = _shifted
'''


def _run(environment: Environment) -> Found:
    plan = environment.plan
    clock = _Clock(environment.work / _NAME / "clock")
    with (
        environment.redis(_NAME) as redis,
        environment.service(_NAME, redis.url, python_path=clock.folder) as service,
    ):
        timed, untimed = environment.target(service.url), environment.target(service.url)
        untimed = Target(untimed.url, [_without_time(one) for one in untimed.requests])
        rate = plan.share * capacity(timed, plan.capacity_s)
        expected = _scores(service.url, timed)
        same: list[bool] = []
        aged = [_aged_s(service.url)]
        each = plan.broken_s / len(_JUMPS) * 2
        with Load(untimed, rate, plan.steady_s + each * len(_JUMPS) + plan.mended_s / 2) as load:
            load.until(plan.steady_s)
            for place, (name, seconds) in enumerate(_JUMPS, start=1):
                clock.jump(seconds)
                load.mark(name)
                same.append(_scores(service.url, timed) == expected)
                load.until(plan.steady_s + each * place)
                aged.append(_aged_s(service.url))
    timeline = load.timeline
    fives = count(timeline.samples, *FIVES)
    degraded = count(timeline.samples, *(kind for kind in SCORED if kind != "full"))
    return Found(
        {
            "clock_jump_5xx": fives,
            "clock_jump_degraded": degraded,
            "clock_jump_p99_ms": percentile_ms(timeline.between(plan.steady_s, timeline.marks[-1].at_s), 99),
            "clock_jump_steady_p99_ms": percentile_ms(timeline.between(0.0, plan.steady_s), 99),
        },
        (
            *usual_checks(timeline.samples),
            # By phases: over all, years forward and years back make up for each other.
            Check(
                "the service's clock has jumped: rows look years old to it",
                max(after - before for before, after in pairwise(aged)) > _JUMPS[1][1],
            ),
            Check("no row is taken for stale", degraded == 0),
            Check("requests that say when they are get the same scores, to the bit", all(same)),
        ),
        timeline,
    )


class _Clock:
    """A folder for PYTHONPATH, whose module shifts the clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "seconds"
        folder.mkdir(parents=True, exist_ok=True)
        self.jump(0.0)
        (folder / "sitecustomize.py").write_text(_SHIFTED.format(path=str(self._file), size=_BYTES))

    def jump(self, seconds: float) -> None:
        """So many seconds from what it is. Written over itself: readers have it open."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(f"{seconds:<{_BYTES}}".encode())


def _aged_s(url: str) -> float:
    """The ages of all rows that were looked at, added up."""
    with Client(url) as client:
        return metric(client, 'msd_row_age_seconds_sum{side="user"}')


def _without_time(request: bytes) -> bytes:
    """The same request, which leaves the time to the service's clock."""
    document = json.loads(request.partition(b"\r\n\r\n")[2])
    del document["at"]
    return http_request("/v1/score", json.dumps(document).encode())


def _scores(url: str, target: Target) -> list[object]:
    """Of a few requests, as they are written."""
    with Client(url) as client:
        bodies = [one.partition(b"\r\n\r\n")[2] for one in target.requests[:10]]
        return [json.loads(client.score(body).body)["candidates"] for body in bodies]


CLOCK_JUMP = Scenario(_NAME, "The clock jumps", (), _run)
