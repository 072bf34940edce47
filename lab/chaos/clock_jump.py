"""The clock jumps by a day, by years, and back, under load: only ages of counts change.

A process's clock cannot be set from outside, so the service runs with a module that adds the number in a file to
`time.time`.
"""

import json
from itertools import pairwise
from pathlib import Path

from lab.chaos.run import Run
from lab.chaos.timeline import DEGRADED, count
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection
from loadtest.requests import http_request

_OBSERVED = 10
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


class ShiftedClock:
    """The clock of a service that runs with the module in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "seconds"
        self._path.touch()
        self.jump(0.0)
        (folder / "sitecustomize.py").write_text(_SHIFTED.format(path=str(self._path), size=_BYTES))

    def jump(self, seconds: float) -> None:
        """Shift it. The file is overwritten in place, because readers have it open."""
        with self._path.open("r+b") as file:
            file.write(f"{seconds:<{_BYTES}}".encode())


def clock_jump(run: Run) -> None:
    """Rows look years old; nothing else changes."""
    clock = ShiftedClock(run.folder)
    plan = run.plan
    each_s = 2 * plan.broken_s / len(_JUMPS)
    with (
        run.redis() as redis,
        run.service(redis.url, python_path=run.folder) as service,
        ServiceConnection(service.url) as client,
    ):
        timed = run.target(service)

        def scores() -> list[object]:
            bodies = timed.bodies[:_OBSERVED]
            return [json.loads(client.scored(body).body)["candidates"] for body in bodies]

        def ages_s() -> float:
            return client.metric('msd_row_age_seconds_sum{side="user"}')

        expected, same, ages = scores(), list[bool](), [ages_s()]
        untimed = Target(service.url, [_without_time(body) for body in timed.bodies])
        with run.load(untimed, seconds=plan.steady_s + each_s * len(_JUMPS) + plan.mended_s / 2) as load:
            for number, (name, seconds) in enumerate(_JUMPS, start=1):
                clock.jump(seconds)
                load.mark(name)
                same.append(scores() == expected)
                load.until(plan.steady_s + each_s * number)
                ages.append(ages_s())
    # By phase: in total, years forward and years back cancel out.
    farthest = max(after - before for before, after in pairwise(ages))
    run.check("the service's clock has jumped: rows look years old to it", farthest > _JUMPS[1][1])
    run.check("no row counts as stale", count(run.timeline.samples, *DEGRADED) == 0)
    run.check("requests with `at` get the same scores, to the bit", all(same))


def _without_time(body: bytes) -> bytes:
    """Return the same request without `at`."""
    document = json.loads(body)
    del document["at"]
    return http_request("/v1/score", json.dumps(document).encode())
