"""Whether a worker has more than its share of the connections, as when another was replaced and began with none.

What it has too many is sent away, reply by reply; the supervisor gives them to those with fewer. Knows numbers alone.
"""

from service.metrics import Metrics


class Balance:
    """One worker's share."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._surplus = 0

    def weigh(self, connections: int) -> None:
        """Compares so many connections with those of the other workers that are ready."""
        metrics = self._metrics
        metrics.connections.set(connections)
        is_ready = metrics.families.over_rows(metrics.ready_place)
        everywhere = metrics.families.over_rows(metrics.connections.place)
        ready = int(sum(is_ready))
        total = int(sum(number for number, one in zip(everywhere, is_ready, strict=True) if one))
        self._surplus = connections - -(-total // ready) if ready > 1 and is_ready[metrics.row] else 0

    def lost(self) -> None:
        """A connection of this worker ended before it was one of the server's."""
        self._metrics.connection_ended()

    def sends_away(self) -> bool:
        """Whether the next reply is to be its connection's last."""
        if self._surplus <= 0:
            return False
        self._surplus -= 1
        return True
