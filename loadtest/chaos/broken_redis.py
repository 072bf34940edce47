"""Redis is killed, frozen or emptied while the service scores at half of what it can, and mended again."""

from collections.abc import Callable
from typing import NamedTuple

from loadtest.chaos.ground import Ground
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.redis import RedisProcess
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import FIVES, SCORED, Timeline, count, percentile_ms

# Until then a row that a worker holds may rightly count as fresh.
_FRESH_S = 1.2
RECOVERED_S = 3.0


class _Way(NamedTuple):
    """A way to break Redis, and to mend it."""

    name: str
    title: str
    broken: str
    mended: str
    break_: Callable[[RedisProcess, Ground], None]
    mend: Callable[[RedisProcess, Ground], None]


def _run(way: _Way, ground: Ground) -> Found:
    plan = ground.plan
    with ground.redis(way.name) as redis, ground.service(way.name, redis.url) as service:
        target = ground.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            way.break_(redis, ground)
            broken = load.mark(way.broken)
            load.until(broken + plan.broken_s)
            way.mend(redis, ground)
            mended = load.mark(way.mended)
    return found(way.name, load.timeline, broken, mended, plan.deadline_ms)


def found(
    name: str, timeline: Timeline, broken_s: float, mended_s: float, deadline_ms: int, *, is_always_broken: bool = True
) -> Found:
    """The verdict on a store that was broken from one second to another, without a pause if `is_always_broken`."""
    name = name.replace("-", "_")
    degraded = [kind for kind in SCORED if kind != "full"]
    last = timeline.last_s(degraded)
    recovered = any(sample.kind == "full" and sample.due_s > max(last, mended_s) for sample in timeline.samples)
    fives = count(timeline.samples, *FIVES)
    gone = count(timeline.samples, "lost", "unanswered", "refused", "invalid", "busy")
    p99 = percentile_ms(timeline.between(broken_s, max(mended_s, last + 1e-6)), 99)
    recover_s = round(max(0.0, last - mended_s), 3) if recovered else None
    unmarked = count(timeline.between(broken_s + _FRESH_S, mended_s - 0.1), "full") if is_always_broken else 0
    return Found(
        {
            f"{name}_5xx": fives,
            f"{name}_p99_ms": p99,
            f"{name}_recover_s": recover_s,
            f"{name}_not_answered": gone,
            f"{name}_unmarked": unmarked,
            f"{name}_degraded": count(timeline.samples, *degraded),
            f"{name}_steady_p99_ms": percentile_ms(timeline.between(0.0, broken_s), 99),
        },
        (
            Check("no reply is a 5xx", fives == 0),
            Check("every request is answered", gone == 0),
            Check("what is not fresh is said to be degraded", unmarked == 0),
            Check("full quality comes back", recovered),
            Check(f"it is back within {RECOVERED_S:g} s", recover_s is not None and recover_s <= RECOVERED_S, True),
            Check(f"p99 within the deadline of {deadline_ms} ms", p99 is not None and p99 <= deadline_ms, True),
        ),
        timeline,
    )


def _scenario(way: _Way, told: tuple[str, ...] = ()) -> Scenario:
    return Scenario(way.name, way.title, told, lambda ground: _run(way, ground))


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
        lambda redis, ground: redis.publish(ground.bundle),
    )
)
