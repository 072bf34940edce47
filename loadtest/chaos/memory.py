"""Many requests of random sizes, on connections that come and go: what the service holds does not grow with them."""

import random
import time

from loadtest.chaos.environment import Environment
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import Timeline
from loadtest.generator import Limits, Target, closed_loop
from loadtest.outcome import Outcome
from msd.process import Held, held

_NAME = "memory"
_GROWTH = 0.03
_TURN_S = 3.0
_CLIENTS = (4, 8, 16)
_MB = 2**20


def _run(environment: Environment) -> Found:
    plan = environment.plan
    mix = dict.fromkeys(range(1, plan.memory_candidates + 1), 1.0)
    timeline, whole = Timeline(), Outcome(0.0)
    levels: dict[str, list[tuple[float, float]]] = {name: [] for name in ("memory, MB", "open files", "threads")}
    timeline.levels = levels
    rng, start = random.Random(0), time.monotonic()
    with environment.redis(_NAME) as redis, environment.service(_NAME, redis.url, deadline_ms=60_000) as service:
        target = environment.target(service.url, mix)
        first: Held | None = None
        while (done := whole.statuses[200]) < plan.memory_requests:
            environment.heard(f"{_NAME}: requests", done, plan.memory_requests)
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
    return Found(
        {
            "rss_growth": round(growth, 4),
            "memory_requests": whole.statuses[200],
            "memory_mb": round(now.memory / _MB, 1),
            "memory_files_growth": now.files - first.files,
            "memory_threads_growth": now.threads - first.threads,
        },
        (
            Check("every request is scored", others == 0),
            Check(f"memory grows by at most {_GROWTH:.0%}", growth <= _GROWTH, True),
            # Connections of the turn before may just be closing.
            Check("no more files are open", now.files - first.files <= max(_CLIENTS)),
            Check("no more threads run", now.threads <= first.threads),
        ),
        timeline,
    )


def _turn(target: Target, rng: random.Random, seconds: float) -> Outcome:
    """Of the same requests, from another place on."""
    place = rng.randrange(len(target.requests))
    turned = Target(target.url, [*target.requests[place:], *target.requests[:place]])
    return closed_loop(turned, rng.choice(_CLIENTS), seconds, Limits(patience_s=30.0))


MEMORY = Scenario(_NAME, "Many requests of random sizes", ("rss_growth",), _run)
