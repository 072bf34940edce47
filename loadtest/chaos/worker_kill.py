"""One of the workers is killed under load: what it had is lost, and nothing else."""

import os
import signal

from loadtest.chaos.ground import Ground, metric, wait_for
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.processes import named
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import FIVES, count, percentile_ms
from loadtest.http_client import Client

_NAME = "worker-kill"


def _run(ground: Ground) -> Found:
    plan = ground.plan
    # The others go on meanwhile.
    workers = max(2, plan.workers)
    with ground.service(_NAME, workers=workers) as service:
        target = ground.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.seconds) as load:
            load.until(plan.steady_s)
            os.kill(named(service, "service.worker"), signal.SIGKILL)
            killed = load.mark("a worker killed (−9)")
            wait_for(service.url, "msd_worker_restarts_total", 1)
            wait_for(service.url, "msd_workers_ready", workers)
            again = load.mark("all workers ready")
        with Client(service.url) as client:
            restarts = metric(client, "msd_worker_restarts_total")
    timeline = load.timeline
    lost, fives = count(timeline.samples, "lost"), count(timeline.samples, *FIVES)
    # Each can have lost one: what was on its way when the worker died.
    connected = load.outcome.connections
    return Found(
        {
            "worker_kill_5xx": fives,
            "worker_kill_lost": lost,
            "worker_kill_connections": connected,
            "worker_kill_again_s": round(again - killed, 3),
            "worker_kill_p99_ms": percentile_ms(timeline.between(killed, again), 99),
            "worker_kill_steady_p99_ms": percentile_ms(timeline.between(0.0, killed), 99),
        },
        (
            Check("no reply is a 5xx", fives == 0, is_timed=0 < fives == count(timeline.samples, "late")),
            Check("no more requests are lost than there were connections", lost <= connected),
            Check("every other request is answered", count(timeline.samples, "unanswered", "refused") == 0),
            Check("the worker was replaced, once", restarts == 1),
        ),
        timeline,
    )


WORKER_KILL = Scenario(_NAME, "A worker is killed under load", (), _run)
