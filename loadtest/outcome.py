"""Outcomes of a run of requests. Knows no connections."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from loadtest.durations import Durations


@dataclass
class Outcome:
    """Counts of replies by status, and latencies of 200 replies from the time that each was due.

    `in_time` counts 200 replies within the `seconds` of the run, without `degraded` ones, such as partial replies;
    `lost` requests had their connection closed; `unanswered` ones had no reply at the end of the run. `late` is the
    generator's own delay; `cpu_seconds` its CPU time; `connections` the most that were open at one time.
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


@dataclass(frozen=True)
class Rounds:
    """Runs of one kind, in order."""

    outcomes: tuple[Outcome, ...]

    @property
    def merged(self) -> Outcome:
        """Return all runs as one."""
        whole = Outcome(0.0)
        for outcome in self.outcomes:
            whole.add(outcome)
        return whole

    def median(self, of: Callable[[Outcome], float]) -> float:
        """Return a figure's median over the runs, because a few may have been disturbed."""
        return median(map(of, self.outcomes))

    def ratio(self, other: "Rounds", of: Callable[[Outcome], float]) -> float:
        """Return the median ratio of a figure to that of another's run in the same round."""
        return median(of(one) / of(its) for one, its in zip(self.outcomes, other.outcomes, strict=True))


def goodput(outcome: Outcome) -> float:
    """Requests per second that were scored within a run."""
    return outcome.goodput


def p50_ms(outcome: Outcome) -> float:
    """The median latency."""
    return outcome.latency.percentile_ms(50)
