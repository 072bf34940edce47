"""Outcomes of a run of requests. Knows no connections."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np


class Durations:
    """Recorded durations, in seconds: an exact list, eight bytes each.

    A histogram would bound the memory of endless runs; here an hour of 2,000 requests/s takes 58 MB. Recording time
    matters more beside a measured service: hdrhistogram takes 1.4 µs, this .2.
    """

    def __init__(self) -> None:
        self._seconds = array("d")

    def record(self, seconds: float) -> None:
        """Record one."""
        self._seconds.append(seconds)

    def add(self, other: Self) -> None:
        """Record all of another list."""
        self._seconds.extend(other._seconds)

    @property
    def count(self) -> int:
        """The number of durations."""
        return len(self._seconds)

    @property
    def mean_ms(self) -> float:
        """The mean in milliseconds, NaN without any."""
        return 1e3 * float(np.mean(self._seconds)) if self._seconds else float("nan")

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile in milliseconds, NaN without any."""
        if not self._seconds:
            return float("nan")
        return 1e3 * float(np.percentile(self._seconds, percent, method="inverted_cdf"))


@dataclass
class Outcome:
    """Counts of replies by status, and latencies of 200 replies from the time that each was due.

    `in_time` counts 200 replies within the `seconds` of the run, without `degraded` ones, such as partial replies;
    `lost` requests had their connection closed; `unanswered` ones had no reply when the run was given up. `late` is
    the generator's own delay; `cpu_seconds` its CPU time; `connections` the most that were open at one time.
    """

    seconds: float
    offered: int = 0
    in_time: int = 0
    degraded: int = 0
    lost: int = 0
    unanswered: int = 0
    cpu_seconds: float = 0.0
    connections: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latency: Durations = field(default_factory=Durations)
    late: Durations = field(default_factory=Durations)

    @property
    def goodput(self) -> float:
        """Requests per second that were scored in full within the run."""
        return self.in_time / self.seconds

    def add(self, other: "Outcome") -> None:
        """Add another run of the same kind."""
        self.seconds += other.seconds
        self.offered += other.offered
        self.in_time += other.in_time
        self.degraded += other.degraded
        self.lost += other.lost
        self.unanswered += other.unanswered
        self.cpu_seconds += other.cpu_seconds
        self.connections = max(self.connections, other.connections)
        self.statuses += other.statuses
        self.latency.add(other.latency)
        self.late.add(other.late)

    def as_json(self) -> dict[str, Any]:
        """Return its figures, percentiles in milliseconds."""
        percentiles = {f"p{percent:g}_ms": self.latency.percentile_ms(percent) for percent in (50, 90, 99, 99.9)}
        counts = {str(status): count for status, count in sorted(self.statuses.items())}
        return {
            "seconds": round(self.seconds, 2),
            "offered": self.offered,
            "goodput": round(self.goodput, 2),
            "degraded": self.degraded,
            "statuses": counts | {"lost": self.lost, "unanswered": self.unanswered},
            **{name: round(value, 3) if self.latency.count else None for name, value in percentiles.items()},
            "client_late_p99_ms": round(self.late.percentile_ms(99), 3) if self.late.count else None,
            "client_cpu_us": round(1e6 * self.cpu_seconds / max(1, sum(self.statuses.values())), 1),
        }
