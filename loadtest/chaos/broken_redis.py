"""Redis is killed, frozen or emptied while the service scores at half of what it can, and mended again."""

import time
from collections.abc import Callable
from typing import NamedTuple

from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.redis import RedisProcess
from loadtest.chaos.scenario import Check, Found, Scenario, usual_checks
from loadtest.chaos.timeline import FIVES, SCORED, Timeline, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import Client

# Until then a cached row may rightly count as fresh.
_FRESH_S = 1.2
_RECOVERED_S = 3.0
_PATIENCE_S = 30.0
_PAUSE_S = 0.1
_LOOKED_AT = 20


class _Way(NamedTuple):
    """A way to break Redis, and to mend it."""

    name: str
    title: str
    broken: str
    mended: str
    break_: Callable[[RedisProcess, Environment], None]
    mend: Callable[[RedisProcess, Environment], None]


def _run(way: _Way, environment: Environment) -> Found:
    plan = environment.plan
    with environment.redis(way.name) as redis, environment.service(way.name, redis.url) as service:
        target = environment.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            way.break_(redis, environment)
            broken = load.mark(way.broken)
            load.until(broken + plan.broken_s)
            mending = load.now_s
            way.mend(redis, environment)
            mended = load.mark(way.mended)
        recovered = recovered_s(load, target)
    return found(way.name, load.timeline, Broken(broken, mending, mended, recovered), plan.deadline_ms)


class Broken(NamedTuple):
    """From when to when a store was broken, the seconds at which it began and ended to be mended, and the one at which
    scores were whole again, None if they never were."""

    from_s: float
    mending_s: float
    mended_s: float
    recovered_s: float | None


def recovered_s(load: Load, target: Target) -> float | None:
    """When the first request was due after which all are scored in full, if need be after the load's own end."""
    last = load.timeline.last_s(kind for kind in SCORED if kind != "full")
    whole = [sample.due_s for sample in load.timeline.samples if sample.kind == "full" and sample.due_s > last]
    if whole:
        return last if last > 0 else min(whole)
    with Client(target.url) as client:
        while load.now_s < load.seconds + _PATIENCE_S:
            for request in target.requests[:_LOOKED_AT]:
                reply = client.score(request.partition(b"\r\n\r\n")[2])
                if reply.status != 200 or b'"degraded"' in reply.body:
                    break
            else:
                return load.now_s
            time.sleep(_PAUSE_S)
    return None


def found(name: str, timeline: Timeline, broken: Broken, deadline_ms: int, *, is_always_broken: bool = True) -> Found:
    """The verdict on a store that was broken, all the time if `is_always_broken`."""
    name = name.replace("-", "_")
    degraded = [kind for kind in SCORED if kind != "full"]
    fives = count(timeline.samples, *FIVES)
    p99 = percentile_ms(timeline.between(broken.from_s, max(broken.mended_s, broken.recovered_s or 0.0) + 1e-6), 99)
    recover_s = None if broken.recovered_s is None else round(max(0.0, broken.recovered_s - broken.mended_s), 3)
    meanwhile = timeline.between(broken.from_s + _FRESH_S, broken.mending_s) if is_always_broken else []
    # What was answered later may have been scored when Redis was back.
    unmarked = count((sample for sample in meanwhile if sample.over_s < broken.mending_s), "full")
    return Found(
        {
            f"{name}_5xx": fives,
            f"{name}_p99_ms": p99,
            ("redis_recover_s" if name == "redis_kill" else f"{name}_recover_s"): recover_s,
            f"{name}_refused": count(timeline.samples, "busy"),
            f"{name}_unmarked": unmarked,
            f"{name}_degraded": count(timeline.samples, *degraded),
            f"{name}_steady_p99_ms": percentile_ms(timeline.between(0.0, broken.from_s), 99),
        },
        (
            *usual_checks(timeline.samples),
            Check("what is not fresh is said to be degraded", unmarked == 0),
            Check("full quality comes back", recover_s is not None),
            Check(f"it is back within {_RECOVERED_S:g} s", recover_s is not None and recover_s <= _RECOVERED_S, True),
            Check(f"p99 within the deadline of {deadline_ms} ms", p99 is not None and p99 <= deadline_ms, True),
        ),
        timeline,
    )


def _scenario(way: _Way, told: tuple[str, ...] = ()) -> Scenario:
    return Scenario(way.name, way.title, told, lambda environment: _run(way, environment))


REDIS_KILL = _scenario(
    _Way(
        "redis-kill",
        "Redis is killed under load, and started again",
        "Redis killed (−9)",
        "Redis is back",
        lambda redis, _: redis.kill(),
        lambda redis, _: redis.start(),
    ),
    ("redis_kill_5xx", "redis_kill_p99_ms", "redis_recover_s"),
)
REDIS_FREEZE = _scenario(
    _Way(
        "redis-freeze",
        "Redis is frozen under load, and thawed",
        "Redis frozen (SIGSTOP)",
        "Redis thawed (SIGCONT)",
        lambda redis, _: redis.freeze(),
        lambda redis, _: redis.thaw(),
    )
)
REDIS_FLUSH = _scenario(
    _Way(
        "redis-flush",
        "All rows are flushed under load, and published again",
        "FLUSHALL",
        "rows published again",
        lambda redis, _: redis.flush(),
        lambda redis, environment: redis.publish(environment.bundle),
    )
)
