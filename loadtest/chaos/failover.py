"""The master of a Redis is killed, and its replica takes its place: behind Sentinels, and in a cluster."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from loadtest.bench.processes import publish
from loadtest.chaos.broken_redis import recovered_s
from loadtest.chaos.environment import Environment
from loadtest.chaos.fleet import Fleet, cluster, sentinels
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, usual_checks
from loadtest.chaos.timeline import FIVES, SCORED, count, percentile_ms

# The fleets notice after 1 and 1.5 s, and then hold an election.
_FAILOVER_S = 8.0


def _run(name: str, start: Callable[[Path], AbstractContextManager[Fleet]], environment: Environment) -> Found:
    plan = environment.plan
    with start(environment.work / name) as fleet:
        publish(environment.bundle, fleet.url)
        with environment.service(name, fleet.url) as service:
            target = environment.target(service.url)
            rate = plan.share * capacity(target, plan.capacity_s)
            with Load(target, rate, plan.seconds + _FAILOVER_S / 2) as load:
                load.until(plan.steady_s)
                fleet.victim.kill()
                killed = load.mark("the master killed (−9)")
            recovered = recovered_s(load, target)
    samples, key = load.timeline.samples, name.replace("-", "_")
    fives = count(samples, *FIVES)
    p99 = percentile_ms(load.timeline.between(killed, recovered or load.seconds), 99)
    taken = None if recovered is None else round(max(0.0, recovered - killed), 3)
    return Found(
        {
            f"{key}_5xx": fives,
            f"{key}_refused": count(samples, "busy"),
            f"{key}_p99_ms": p99,
            f"{key}_failover_s": taken,
            f"{key}_degraded": count(samples, *(kind for kind in SCORED if kind != "full")),
        },
        (
            *usual_checks(samples),
            Check("full quality comes back from the replica", taken is not None),
            Check(f"within {_FAILOVER_S:g} s, the election included", bool(taken and taken <= _FAILOVER_S), True),
            Check(f"p99 within {plan.deadline_ms} ms", p99 is None or p99 <= plan.deadline_ms, True),
        ),
        load.timeline,
    )


SENTINEL = Scenario("sentinel", "A master behind Sentinels is killed", (), partial(_run, "sentinel", sentinels))
CLUSTER = Scenario("cluster", "A master of a cluster is killed", (), partial(_run, "cluster", cluster))
