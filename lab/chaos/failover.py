"""A Redis master is killed, and its replica takes over: behind Sentinels, and in a cluster."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar

from lab.chaos.broken_redis import recovered_s
from lab.chaos.fleet import Fleet, cluster, sentinels
from lab.chaos.scenario import Check, Figure, UnderLoad
from lab.chaos.timeline import percentile_ms
from loadtest.processes import Running, publish

# Failure detection takes 1 and 1.5 s, followed by an election.
_FAILOVER_S = 8.0


class Failover(UnderLoad):
    """The service finds the new master by itself."""

    start: ClassVar[Callable[[Path], AbstractContextManager[Fleet]]]
    fleet: Fleet
    recovered_s: float | None

    @contextmanager
    def services(self) -> Iterator[Running]:
        with type(self).start(self.folder) as self.fleet:
            publish(self.environment.bundle, self.fleet.url)
            with self.environment.service(self.name, self.fleet.url) as running:
                yield running

    def seconds(self) -> float:
        return self.plan.seconds + _FAILOVER_S / 2

    def disturb(self) -> None:
        self.fleet.victim.kill()
        self.load.mark("the master killed (−9)")

    def after(self) -> None:
        self.recovered_s = recovered_s(self.load, self.target)

    @property
    def p99_ms(self) -> float | None:
        """Until full quality returned."""
        return percentile_ms(self.timeline.between(self.broken_s, self.recovered_s or self.load.seconds), 99)

    @property
    def failover_s(self) -> float | None:
        """Seconds until full quality returned."""
        return None if self.recovered_s is None else round(max(0.0, self.recovered_s - self.broken_s), 3)

    def figures(self) -> Mapping[str, Figure]:
        return self.named(p99_ms=self.p99_ms, failover_s=self.failover_s)

    def checks(self) -> Iterable[Check]:
        taken, p99, deadline_ms = self.failover_s, self.p99_ms, self.plan.deadline_ms
        yield Check("full quality returns from the replica", taken is not None)
        yield Check(f"within {_FAILOVER_S:g} s, the election included", bool(taken and taken <= _FAILOVER_S), True)
        yield Check(f"p99 within {deadline_ms} ms", p99 is None or p99 <= deadline_ms, True)


class SentinelFailover(Failover):
    """Three Sentinels elect the replica."""

    name = "sentinel"
    title = "A master behind Sentinels is killed"
    start = sentinels


class ClusterFailover(Failover):
    """The other masters elect the replica."""

    name = "cluster"
    title = "A master of a cluster is killed"
    start = cluster
