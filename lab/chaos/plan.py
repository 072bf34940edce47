"""Amounts and durations of scenarios. Measures nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChaosPlan:
    """Each scenario has a steady, a broken and a recovery phase, at a `share` of its current capacity. With the
    defaults all scenarios take about a quarter of an hour on two cores."""

    workers: int = 2
    candidates: int = 200
    bodies: int = 1_000
    share: float = 0.5
    capacity_s: float = 2.0
    steady_s: float = 4.0
    broken_s: float = 5.0
    mended_s: float = 4.0
    deadline_ms: int = 200
    strict_deadline_ms: int = 50
    overload: float = 3.0
    brownout_turns: int = 2
    """With the lean graph, and as many without."""
    swaps: int = 20
    swaps_more: int = 6
    """Swaps at a higher share, and beside a busy neighbour."""
    swap_every_s: float = 2.0
    slow_clients: int = 200
    attackers: float = 1.0
    attack_s: float = 5.0
    memory_requests: int = 200_000
    memory_from: int = 20_000
    memory_candidates: int = 32
    bad_requests: int = 20_000
    events: int = 200_000
    events_a_batch: int = 1_000
    live_rows: int = 20_000
    resamples: int = 500
    generated: int = 500
    """Bad requests made from the OpenAPI document, which takes longer."""

    @property
    def seconds(self) -> float:
        """Seconds of all three phases."""
        return self.steady_s + self.broken_s + self.mended_s
