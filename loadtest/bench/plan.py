"""What `msd bench` measures and for how long. Measures nothing."""

from dataclasses import dataclass, field

from model_export.reference.bundles import Makings


@dataclass(frozen=True)
class BenchPlan:
    """The length of each part.

    A round is `seconds` of one service; the throughput has `rounds` of each, in turns, at those numbers of `workers`
    and `clients` at which it scores most. `loads` are shares of its own capacity, of which 70 % are held for
    `open_seconds`; offered twice as much, it has `deadline_ms`. Look-ups among `many_rows` are held against those
    among `few_rows`.
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
        """Of a request, where nothing else is said."""
        return self.makings.candidates

    @property
    def total_seconds(self) -> float:
        """How long all of it takes, starting and making not counted."""
        throughput, latency = 3 * self.rounds * self.seconds, 3 * self.rounds * self.short
        files = (throughput + latency) / 2
        chosen = 3 * len(self.workers) * len(self.clients) * 2 * self.short
        curves = 2 * len(self.loads) * self.seconds
        counts = 3 * len(self.counts) * self.short
        held = 2 * (self.seconds + self.open_seconds + self.overload_seconds)
        return chosen + throughput + latency + files + held + curves + counts

    @property
    def short(self) -> float:
        """A round with one client."""
        return self.seconds / 2

    @property
    def overload_seconds(self) -> float:
        """How long twice the capacity is offered."""
        return 2 * self.seconds
