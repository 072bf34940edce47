"""The service is killed, or stopped, under load: unanswered requests are lost, or none is."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lab.chaos.scenario import Check, Figure, UnderLoad, no_fives
from lab.chaos.timeline import UNANSWERED, Sample, count, percentile_ms

# The load continues until the service is ready again, for this long at most.
_PATIENCE_S = 60.0
_DRAIN_S = 1.0


class ServiceKill(UnderLoad):
    """Restarted, as by systemd, Docker or Kubernetes: requests in progress are lost, and no others once it is ready."""

    name = "service-kill"
    title = "The service is killed under load and started again"

    def seconds(self) -> float:
        return self.plan.seconds + _PATIENCE_S

    def disturb(self) -> None:
        self.load.mark("the service killed (−9)")
        self.service.kill()
        self.service.start()
        self.service.wait()
        self.load.until(self.load.mark("ready again") + self.plan.mended_s)
        self.load.stop()

    @property
    def until_kill(self) -> list[Sample]:
        """Requests due before the kill."""
        return self.timeline.between(0.0, self.broken_s)

    @property
    def later(self) -> list[Sample]:
        """Requests due once the service was ready again."""
        return self.timeline.between(self.mended_s, math.inf)

    @property
    def lost(self) -> int:
        """Requests due before the kill and never answered."""
        return count(self.until_kill, "lost", "unanswered")

    def figures(self) -> Mapping[str, Figure]:
        return self.named(
            lost=self.lost,
            connections=self.load.outcome.connections,
            ready_s=round(self.mended_s - self.broken_s, 3),
            p99_ms=percentile_ms(self.later, 99),
        )

    def usual_checks(self) -> Iterable[Check]:
        yield no_fives(self.until_kill, "no reply before the kill is a 5xx")

    def checks(self) -> Iterable[Check]:
        unscored = count(self.later, "not_ready", "error", *UNANSWERED)
        yield Check("no more requests are lost than there were connections", self.lost <= self.load.outcome.connections)
        yield Check("some requests are answered after the restart", bool(self.later))
        yield Check("all of them are", not unscored)


class Sigterm(UnderLoad):
    """Accepted requests are answered, later connections are refused."""

    name = "sigterm"
    title = "SIGTERM under load"
    told = ("sigterm_lost",)
    status: int

    def settings(self) -> Mapping[str, Any]:
        return {"drain_seconds": _DRAIN_S}

    def seconds(self) -> float:
        return self.plan.steady_s + self.plan.broken_s

    def disturb(self) -> None:
        self.service.terminate()
        self.load.mark("SIGTERM")
        self.status = self.service.wait_for_end()
        self.load.mark("the service has ended")

    @property
    def lost(self) -> int:
        """Accepted requests without an answer."""
        return count(self.timeline.samples, "lost", "unanswered")

    def figures(self) -> Mapping[str, Figure]:
        return self.named(
            lost=self.lost,
            refused=count(self.timeline.samples, "refused"),
            answered=count(self.timeline.between(self.broken_s, self.mended_s), "full"),
            seconds=round(self.mended_s - self.broken_s, 3),
        )

    def usual_checks(self) -> Iterable[Check]:
        yield no_fives(self.timeline.samples)

    def checks(self) -> Iterable[Check]:
        refused = [sample.over_s for sample in self.timeline.samples if sample.kind == "refused"]
        yield Check("every accepted request is answered", self.lost == 0)
        yield Check("it ends with status 0", self.status == 0)
        is_open = not refused or min(refused) > self.broken_s + 0.9 * _DRAIN_S
        yield Check("connections are accepted for the drain time", is_open)
