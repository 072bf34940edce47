"""Redis is killed or frozen under load, and restored; a master behind Sentinels or of a cluster is killed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from lab.bench.redis import RedisProcess
from lab.chaos.fleet import Fleet, cluster, sentinels
from lab.chaos.load import BackgroundLoad
from lab.chaos.run import Run
from lab.chaos.timeline import DEGRADED, count, percentile_ms
from loadtest.generator import Target
from loadtest.http_client import ClientError, ServiceConnection, wait_until
from loadtest.processes import publish

# Until then a cached row may correctly count as fresh.
_FRESH_S = 1.2
_RECOVERED_S = 3.0
# Failure detection takes 1 and 1.5 s, followed by an election.
_FAILOVER_S = 8.0
_PATIENCE_S = 30.0
_OBSERVED = 20


def redis_kill(run: Run) -> None:
    """kill −9: connections end, and new ones fail."""
    _broken(run, "Redis killed (−9)", RedisProcess.kill, "Redis is back", RedisProcess.start)


def redis_freeze(run: Run) -> None:
    """SIGSTOP: it neither answers nor closes connections."""
    _broken(run, "Redis frozen (SIGSTOP)", RedisProcess.freeze, "Redis thawed (SIGCONT)", RedisProcess.thaw)


def sentinel_failover(run: Run) -> None:
    """Three Sentinels elect the replica."""
    _failover(run, sentinels)


def cluster_failover(run: Run) -> None:
    """The other masters elect the replica."""
    _failover(run, cluster)


def _broken(
    run: Run, broken: str, break_it: Callable[[RedisProcess], None], mended: str, mend: Callable[[RedisProcess], None]
) -> None:
    with run.redis() as redis, run.service(redis.url) as service:
        target = run.target(service)
        with run.load(target) as load:
            break_it(redis)
            load.until(load.mark(broken) + run.plan.broken_s)
            mending_s = load.now_s
            mend(redis)
            load.mark(mended)
        _check_recovery(run, load, target, run.timeline.mended_s, _RECOVERED_S)
    # Later replies may have been scored with Redis restored.
    meanwhile = run.timeline.between(run.timeline.broken_s + _FRESH_S, mending_s)
    unmarked = count((sample for sample in meanwhile if sample.over_s < mending_s), "full")
    run.figures["unmarked"] = unmarked
    run.check("stale scores are declared as degraded", unmarked == 0)


def _failover(run: Run, start: Callable[[Path], AbstractContextManager[Fleet]]) -> None:
    with start(run.folder) as fleet:
        publish(run.bundle, fleet.url)
        with run.service(fleet.url) as service:
            target = run.target(service)
            with run.load(target, seconds=run.plan.seconds + _FAILOVER_S / 2) as load:
                fleet.masters[0].kill()
                load.mark("the master killed (−9)")
            _check_recovery(run, load, target, run.timeline.broken_s, _FAILOVER_S)


def _check_recovery(run: Run, load: BackgroundLoad, target: Target, since_s: float, within_s: float) -> None:
    """Check that full quality returns, within a time since a second of the load."""
    recovered_s = _recovered_s(load, target)
    end_s = max(run.timeline.mended_s, recovered_s or load.seconds) + 1e-6
    p99 = percentile_ms(run.timeline.between(run.timeline.broken_s, end_s), 99)
    recover_s = None if recovered_s is None else round(max(0.0, recovered_s - since_s), 3)
    run.figures |= {"p99_ms": p99, "recover_s": recover_s}
    run.check("full quality returns", recover_s is not None)
    run.check(f"it is back within {within_s:g} s", recover_s is not None and recover_s <= within_s, True)
    run.check(f"p99 within the deadline of {run.plan.deadline_ms} ms", p99 is None or p99 <= run.plan.deadline_ms, True)


def _recovered_s(load: BackgroundLoad, target: Target) -> float | None:
    """Return when the first request was due after which all are scored in full, even after the load's end; None if
    never."""
    last = load.timeline.last_s(DEGRADED)
    full = [sample.due_s for sample in load.timeline.samples if sample.kind == "full" and sample.due_s > last]
    if full:
        return last if last > 0 else min(full)
    with ServiceConnection(target.url) as client:

        def is_full() -> bool:
            replies = (client.score(body) for body in target.bodies[:_OBSERVED])
            return all(reply.status == 200 and b'"degraded"' not in reply.body for reply in replies)

        try:
            wait_until("full quality", is_full, load.seconds + _PATIENCE_S - load.now_s)
        except ClientError:
            return None
    return load.now_s
