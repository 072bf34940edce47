"""Every request is logged, before, while and after Redis is empty; then the log is scored again, to the bit."""

import json

from loadtest.bench.processes import told
from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario, usual_checks
from loadtest.chaos.timeline import SCORED, count

_NAME = "log-replay"
# Logging all rows of all requests costs more than scoring them does; the rest is for the log's writer.
_SHARE_OF_LOAD = 0.4
_MOST = 4_000


def _run(environment: Environment) -> Found:
    plan = environment.plan
    folder = environment.work / _NAME / "log"
    mix = {max(1, plan.candidates // 10): 1.0, plan.candidates: 1.0}
    with (
        environment.redis(_NAME) as redis,
        environment.service(_NAME, redis.url, log_dir=folder, log_sample=1.0, log_flush_seconds=1.0) as service,
    ):
        target = environment.target(service.url, mix)
        rate = _SHARE_OF_LOAD * plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            redis.flush()
            load.mark("FLUSHALL")
            load.until(plan.steady_s + plan.broken_s / 2)
            redis.publish(environment.bundle)
            load.mark("rows published again")
        service.terminate()
        service.wait_for_end()
    environment.heard(f"{_NAME}: scoring the log again", 0, 1)
    replayed = json.loads(
        told("replay", str(folder), "--bundle", str(environment.bundle), "--limit", str(_MOST), "--json")
    )
    samples = load.timeline.samples
    return Found(
        {
            "replay_mismatches": replayed["mismatches"],
            "replay_requests": replayed["requests"],
            "replay_candidates": replayed["candidates"],
            "replay_exact": replayed["exact"],
            "replay_max_abs_diff": replayed["max_abs_diff"],
            "replay_scored": count(samples, *SCORED),
            "replay_degraded": count(samples, *(kind for kind in SCORED if kind != "full")),
        },
        (
            *usual_checks(samples),
            Check("every logged score comes again, to the bit", replayed["mismatches"] == 0),
            Check("all were compared to the bit", replayed["exact"] == replayed["requests"] > 0),
        ),
        load.timeline,
    )


LOG_REPLAY = Scenario(_NAME, "What was logged is scored again", ("replay_mismatches",), _run)
