"""The process is killed under load, and started again by whoever runs it: what it had in hand is lost, nothing else."""

import os
import signal

from loadtest.chaos.ground import Ground, wait_for
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.processes import Restarter
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import FIVES, count, percentile_ms

_NAME = "process-kill"


def _run(ground: Ground) -> Found:
    plan = ground.plan
    with ground.service(_NAME) as service, Restarter(service) as restarter:
        target = ground.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            os.kill(service.pid, signal.SIGKILL)
            killed = load.mark("the process killed (−9)")
            restarter.wait_for(1)
            wait_for(service.url, "msd_ready", 1)
            again = load.mark("ready again")
    timeline = load.timeline
    lost, fives = count(timeline.samples, "lost"), count(timeline.samples, *FIVES)
    # Each can have lost one: what was on its way when the process died.
    connected = load.outcome.connections
    last_s = max(timeline.last_s(("lost", "refused", "unanswered", "not_ready")), killed)
    return Found(
        {
            "process_kill_5xx": fives,
            "process_kill_lost": lost,
            "process_kill_refused": count(timeline.samples, "refused"),
            "process_kill_again_s": round(again - killed, 3),
            "process_kill_without_s": round(last_s - killed, 3),
            "process_kill_p99_ms": percentile_ms(timeline.between(again, plan.seconds), 99),
            "process_kill_steady_p99_ms": percentile_ms(timeline.between(0.0, killed), 99),
        },
        (
            Check("no more requests are lost than there were connections", lost <= connected),
            Check("no reply is a 5xx, but those of a service that is not ready yet", not timeline.kinds["error"]),
            Check("it was started again, once", restarter.count == 1),
            Check("requests are scored again", count(timeline.between(again, plan.seconds), "full") > 0),
        ),
        timeline,
    )


PROCESS_KILL = Scenario(_NAME, "The process is killed under load, and started again", (), _run)
