"""The plan of `msd bench`: what it measures and for how long. Measures nothing."""

from dataclasses import dataclass, field

from lab.reference.bundles import Makings


@dataclass(frozen=True)
class BenchPlan:
    """The length of each part.

    A round is `seconds` of one service. Throughput has `rounds` of each service, in turns, with the best numbers of
    `workers` and `clients`. `loads` are shares of its own capacity; 70 % is held for `open_seconds`, and 200 % has
    `deadline_ms`. Look-ups among `many_rows` are compared with those among `few_rows`.
    """

    makings: Makings = field(default_factory=Makings)
    seconds: float = 2.0
    rounds: int = 5
    open_seconds: float = 15.0
    workers: tuple[int, ...] = (1, 2)
    clients: tuple[int, ...] = (2, 8)
    counts: tuple[int, ...] = (20, 50, 200, 500, 1_000)
    loads: tuple[float, ...] = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
    bodies: int = 1_000
    deadline_ms: int = 50
    many_rows: int = 10_000_000
    few_rows: int = 100_000

    @property
    def candidates(self) -> int:
        """Candidates of a request by default."""
        return self.makings.candidates

    @property
    def total_seconds(self) -> float:
        """Total seconds, without starting services and making bundles."""
        throughput, latency = 3 * self.rounds * self.seconds, 3 * self.rounds * self.short
        files = (throughput + latency) / 2
        chosen = 3 * len(self.workers) * len(self.clients) * 2 * self.short
        curves = 2 * len(self.loads) * self.seconds
        counts = 3 * len(self.counts) * self.short
        held = 2 * (self.seconds + self.open_seconds + self.overload_seconds)
        return chosen + throughput + latency + files + held + curves + counts

    @property
    def short(self) -> float:
        """Seconds of a round with one client."""
        return self.seconds / 2

    @property
    def overload_seconds(self) -> float:
        """Seconds of overload at twice the capacity."""
        return 2 * self.seconds
