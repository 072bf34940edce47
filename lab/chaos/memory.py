"""Many requests of random sizes on short-lived connections: the service's memory, files and threads do not grow."""

import random
import time

from lab.chaos.scenario import Check, Scenario, ScenarioResult
from lab.chaos.timeline import ScenarioTimeline
from loadtest.generator import LoadLimits, Target, closed_loop
from loadtest.outcome import Outcome
from msd.process import held

_GROWTH = 0.03
_TURN_S = 3.0
_CLIENTS = (4, 8, 16)
_MB = 2**20


class Memory(Scenario):
    """Memory, open files and threads, from a tenth of the requests on."""

    name = "memory"
    title = "Many requests of random sizes"
    told = ("rss_growth",)

    def run(self) -> ScenarioResult:
        plan = self.plan
        mix = dict.fromkeys(range(1, plan.memory_candidates + 1), 1.0)
        whole, first = Outcome(0.0), None
        levels: dict[str, list[tuple[float, float]]] = {name: [] for name in ("memory, MB", "open files", "threads")}
        rng, start = random.Random(0), time.monotonic()
        with (
            self.environment.redis(self.name) as redis,
            self.environment.service(self.name, redis.url, deadline_ms=60_000) as service,
        ):
            target = self.environment.target(service.url, mix)
            while (done := whole.statuses[200]) < plan.memory_requests:
                self.hear("requests", done, plan.memory_requests)
                seconds = min(_TURN_S, _TURN_S * plan.memory_requests / 50_000)
                whole.add(_turn(target, rng, seconds))
                now = held(service.pid)
                for name, value in zip(levels, (now.memory / _MB, now.files, now.threads), strict=True):
                    levels[name].append((round(time.monotonic() - start, 1), round(value, 2)))
                if first is None and whole.statuses[200] >= plan.memory_from:
                    first = now
        assert first is not None, "the first of the two readings is taken before the last request"
        growth = now.memory / first.memory - 1
        others = sum(whole.statuses.values()) - whole.statuses[200] + whole.lost + whole.unanswered
        figures = self.named(
            requests=whole.statuses[200],
            mb=round(now.memory / _MB, 1),
            files_growth=now.files - first.files,
            threads_growth=now.threads - first.threads,
        )
        checks = (
            Check("every request is scored", others == 0),
            Check(f"memory grows by at most {_GROWTH:.0%}", growth <= _GROWTH, True),
            # Connections of the previous turn may still be closing.
            Check("no more files are open", now.files - first.files <= max(_CLIENTS)),
            Check("no more threads run", now.threads <= first.threads),
        )
        return ScenarioResult({"rss_growth": round(growth, 4), **figures}, checks, ScenarioTimeline(levels=levels))


def _turn(target: Target, rng: random.Random, seconds: float) -> Outcome:
    """Send the same requests, starting elsewhere."""
    place = rng.randrange(len(target.requests))
    turned = Target(target.url, [*target.requests[place:], *target.requests[:place]])
    return closed_loop(turned, rng.choice(_CLIENTS), seconds, LoadLimits(patience_s=30.0))
