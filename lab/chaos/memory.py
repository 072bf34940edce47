"""Many requests of random sizes on short-lived connections: the service's memory, files and threads do not grow."""

import random
import time

from lab.chaos.run import MB, Run
from loadtest.generator import LoadLimits, Target, closed_loop
from loadtest.outcome import Outcome

_GROWTH = 0.03
_TURN_S = 3.0
_CLIENTS = (4, 8, 16)


def memory(run: Run) -> None:
    """Compare memory, open files and threads at the end with those after the first requests."""
    plan, whole, first = run.plan, Outcome(0.0), None
    rng, start = random.Random(0), time.monotonic()
    with run.redis() as redis, run.service(redis.url, deadline_ms=60_000) as service:
        target = run.target(service, dict.fromkeys(range(1, plan.memory_candidates + 1), 1.0))
        while (done := whole.statuses[200]) < plan.memory_requests:
            run.hear("requests", done, plan.memory_requests)
            # The same requests, starting elsewhere.
            place = rng.randrange(len(target.requests))
            turned = Target(target.url, [*target.requests[place:], *target.requests[:place]])
            seconds = min(_TURN_S, _TURN_S * plan.memory_requests / 50_000)
            whole.add(closed_loop(turned, rng.choice(_CLIENTS), seconds, LoadLimits(patience_s=30.0)))
            now = run.usage(service.pid, time.monotonic() - start)
            if first is None and whole.statuses[200] >= plan.memory_from:
                first = now
    assert first is not None, "the first of the two readings is taken before the last request"
    growth, more_files = now.anonymous / first.anonymous - 1, now.files - first.files
    others = sum(whole.statuses.values()) - whole.statuses[200] + whole.lost + whole.unanswered
    run.figures |= {"requests": whole.statuses[200], "mb": round(now.anonymous / MB, 1), "growth": round(growth, 4)}
    run.check("every request is scored", others == 0)
    run.check(f"memory grows by at most {_GROWTH:.0%}", growth <= _GROWTH, True)
    # Connections of the previous turn may still be closing.
    run.check("no more files are open", more_files <= max(_CLIENTS))
    # A look at the bundle's folder has a thread of its own.
    run.check("no more threads run", now.threads <= first.threads + 1)
