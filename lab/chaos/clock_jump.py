"""The clock jumps by a day, by years, and back, under load: only ages of counts change.

A process's clock cannot be set from outside, so the service runs with a module that adds the number in a file to
`time.time`.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.chaos.scenario import Check, UnderLoad
from lab.chaos.timeline import DEGRADED, count
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection
from loadtest.requests import http_request

_LOOKED_AT = 10
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


class ClockJump(UnderLoad):
    """Rows look years old; nothing else changes."""

    name = "clock-jump"
    title = "The clock jumps"
    in_redis = True

    def settings(self) -> Mapping[str, Any]:
        self.clock = _Clock(self.folder / "clock")
        return {"python_path": self.clock.folder}

    @property
    def each_s(self) -> float:
        """Seconds at each clock setting."""
        return self.plan.broken_s / len(_JUMPS) * 2

    def seconds(self) -> float:
        return self.plan.steady_s + self.each_s * len(_JUMPS) + self.plan.mended_s / 2

    def before(self) -> None:
        self.timed = self.target.bodies[:_LOOKED_AT]
        self.target = Target(self.target.url, [_without_time(body) for body in self.target.bodies])
        self.expected, self.same, self.aged = self._scores(), list[bool](), [self._aged_s()]

    def disturb(self) -> None:
        for place, (name, seconds) in enumerate(_JUMPS, start=1):
            self.clock.jump(seconds)
            self.load.mark(name)
            self.same.append(self._scores() == self.expected)
            self.load.until(self.plan.steady_s + self.each_s * place)
            self.aged.append(self._aged_s())

    def checks(self) -> Iterable[Check]:
        # By phase: in total, years forward and years back cancel out.
        farthest = max(after - before for before, after in pairwise(self.aged))
        yield Check("the service's clock has jumped: rows look years old to it", farthest > _JUMPS[1][1])
        yield Check("no row counts as stale", count(self.timeline.samples, *DEGRADED) == 0)
        yield Check("requests with `at` get the same scores, to the bit", all(self.same))

    def _aged_s(self) -> float:
        """Return the summed ages of all observed rows."""
        with ServiceConnection(self.service.url) as client:
            return client.metric('msd_row_age_seconds_sum{side="user"}')

    def _scores(self) -> list[object]:
        """Return the scores of requests that set `at`."""
        with ServiceConnection(self.service.url) as client:
            return [json.loads(client.scored(body).body)["candidates"] for body in self.timed]


class _Clock:
    """A folder for PYTHONPATH with a module that shifts the clock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "seconds"
        folder.mkdir(parents=True, exist_ok=True)
        self.jump(0.0)
        (folder / "sitecustomize.py").write_text(_SHIFTED.format(path=str(self._file), size=_BYTES))

    def jump(self, seconds: float) -> None:
        """Shift the clock by seconds. Overwritten in place, because readers have it open."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(f"{seconds:<{_BYTES}}".encode())


def _without_time(body: bytes) -> bytes:
    """Return the same request without `at`."""
    document = json.loads(body)
    del document["at"]
    return http_request("/v1/score", json.dumps(document).encode())
