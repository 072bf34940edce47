"""Redis is killed, frozen, emptied or behind a bad proxy while the service scores at half of its capacity, and then
restored.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from lab.chaos.load import BackgroundLoad
from lab.chaos.proxy import Mode, Proxy
from lab.chaos.scenario import Check, Figure, UnderLoad
from lab.chaos.timeline import DEGRADED, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import ClientError, ServiceConnection, wait_until
from loadtest.processes import Running

# Until then a cached row may correctly count as fresh.
_FRESH_S = 1.2
_RECOVERED_S = 3.0
_PATIENCE_S = 30.0
_LOOKED_AT = 20


def recovered_s(load: BackgroundLoad, target: Target) -> float | None:
    """Return when the first request was due after which all are scored in full, even after the load's end; None if
    never."""
    last = load.timeline.last_s(DEGRADED)
    whole = [sample.due_s for sample in load.timeline.samples if sample.kind == "full" and sample.due_s > last]
    if whole:
        return last if last > 0 else min(whole)
    with ServiceConnection(target.url) as client:

        def is_whole() -> bool:
            replies = (client.score(body) for body in target.bodies[:_LOOKED_AT])
            return all(reply.status == 200 and b'"degraded"' not in reply.body for reply in replies)

        try:
            wait_until("full quality", is_whole, load.seconds + _PATIENCE_S - load.now_s)
        except ClientError:
            return None
    return load.now_s


class BrokenRedis(UnderLoad):
    """Stale scores are declared as degraded, and full quality returns soon after."""

    in_redis = True
    mending_s: float
    """From then on Redis may be restored."""
    recovered_s: float | None

    def after(self) -> None:
        self.recovered_s = recovered_s(self.load, self.target)

    @property
    def p99_ms(self) -> float | None:
        """Until full quality returned."""
        return percentile_ms(self.timeline.between(self.broken_s, max(self.mended_s, self.recovered_s or 0) + 1e-6), 99)

    @property
    def recover_s(self) -> float | None:
        """Seconds until full quality returned."""
        return None if self.recovered_s is None else round(max(0.0, self.recovered_s - self.mended_s), 3)

    @property
    def unmarked(self) -> int:
        """Replies without degradation while nothing could be fresh."""
        meanwhile = self.timeline.between(self.broken_s + _FRESH_S, self.mending_s)
        # Later replies may have been scored with Redis restored.
        return count((sample for sample in meanwhile if sample.over_s < self.mending_s), "full")

    def figures(self) -> Mapping[str, Figure]:
        return self.named(p99_ms=self.p99_ms, recover_s=self.recover_s, unmarked=self.unmarked)

    def checks(self) -> Iterable[Check]:
        p99, recover_s, deadline_ms = self.p99_ms, self.recover_s, self.plan.deadline_ms
        yield Check("stale scores are declared as degraded", self.unmarked == 0)
        yield Check("full quality returns", recover_s is not None)
        yield Check(f"it is back within {_RECOVERED_S:g} s", recover_s is not None and recover_s <= _RECOVERED_S, True)
        yield Check(f"p99 within the deadline of {deadline_ms} ms", p99 is not None and p99 <= deadline_ms, True)


class BrokenAtOnce(BrokenRedis):
    """Redis is broken by one action, and restored by another."""

    broken: ClassVar[str]
    mended: ClassVar[str]

    @abstractmethod
    def break_it(self) -> None:
        """Break Redis."""

    @abstractmethod
    def mend_it(self) -> None:
        """Restore Redis."""

    def disturb(self) -> None:
        self.break_it()
        self.load.until(self.load.mark(self.broken) + self.plan.broken_s)
        self.mending_s = self.load.now_s
        self.mend_it()
        self.load.mark(self.mended)


class RedisKill(BrokenAtOnce):
    """kill -9: connections end, and new ones fail."""

    name = "redis-kill"
    title = "Redis is killed under load, and started again"
    told = ("redis_kill_5xx", "redis_kill_p99_ms", "redis_recover_s")
    broken, mended = "Redis killed (−9)", "Redis is back"

    def break_it(self) -> None:
        self.redis.kill()

    def mend_it(self) -> None:
        self.redis.start()

    def figures(self) -> Mapping[str, Figure]:
        return {**super().figures(), "redis_recover_s": self.recover_s}


class RedisFreeze(BrokenAtOnce):
    """SIGSTOP: it neither answers nor closes connections."""

    name = "redis-freeze"
    title = "Redis is frozen under load, and thawed"
    broken, mended = "Redis frozen (SIGSTOP)", "Redis thawed (SIGCONT)"

    def break_it(self) -> None:
        self.redis.freeze()

    def mend_it(self) -> None:
        self.redis.thaw()


class RedisFlush(BrokenAtOnce):
    """It answers, but has no rows."""

    name = "redis-flush"
    title = "All rows are flushed under load, and published again"
    broken, mended = "FLUSHALL", "rows published again"

    def break_it(self) -> None:
        self.redis.flush()

    def mend_it(self) -> None:
        self.redis.publish(self.environment.bundle)


class RedisProxy(BrokenRedis):
    """A proxy in front of it disturbs its replies in several ways."""

    name = "redis-proxy"
    title = "What lies between service and Redis delays, truncates, resets, and is silent"
    modes: ClassVar[tuple[Mode, ...]] = ("delay", "truncate", "reset", "hold")
    # Between two modes Redis may answer for a moment, and rows are fresh then.
    unmarked = 0
    proxy: Proxy

    @contextmanager
    def services(self) -> Iterator[Running]:
        with self.environment.redis(self.name) as self.redis, Proxy(self.redis.port) as self.proxy:
            with self.environment.service(self.name, f"redis://127.0.0.1:{self.proxy.port}/0") as running:
                yield running

    @property
    def each_s(self) -> float:
        """Seconds of each mode."""
        return self.plan.broken_s / 2

    def seconds(self) -> float:
        return self.plan.steady_s + self.each_s * len(self.modes) + self.plan.mended_s

    def disturb(self) -> None:
        start = self.load.now_s
        for place, mode in enumerate(self.modes, start=1):
            self.proxy.mode = mode
            self.load.mark(mode)
            self.load.until(start + self.each_s * place)
        self.proxy.mode = "pass"
        self.load.mark("all passes")
