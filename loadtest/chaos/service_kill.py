"""The service is killed under load and started again, as systemd, Docker or Kubernetes would: requests in progress are
lost, and nothing else once it is ready."""

import math

from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import FIVES, count, percentile_ms

_NAME = "service-kill"
# The load goes on until the service is ready again, at most for so long.
_PATIENCE_S = 60.0


def _run(environment: Environment) -> Found:
    plan = environment.plan
    with environment.service(_NAME) as service:
        target = environment.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.seconds + _PATIENCE_S) as load:
            load.until(plan.steady_s)
            killed = load.mark("the service killed (−9)")
            service.kill()
            service.start()
            service.wait()
            ready = load.mark("ready again")
            load.until(ready + plan.mended_s)
            load.stop()
    timeline = load.timeline
    before, after = timeline.between(0.0, killed), timeline.between(ready, math.inf)
    fives = count(before, *FIVES)
    lost, connected = count(before, "lost", "unanswered"), load.outcome.connections
    return Found(
        {
            "service_kill_lost": lost,
            "service_kill_connections": connected,
            "service_kill_ready_s": round(ready - killed, 3),
            "service_kill_p99_ms": percentile_ms(after, 99),
            "service_kill_steady_p99_ms": percentile_ms(before, 99),
        },
        (
            Check("no reply before the kill is a 5xx", fives == 0, is_timed=0 < fives == count(before, "late")),
            Check("no more requests are lost than there were connections", lost <= connected),
            Check("some requests are answered after the restart", bool(after)),
            Check("all of them are", not count(after, "lost", "unanswered", "refused", "not_ready", "error")),
        ),
        timeline,
    )


SERVICE_KILL = Scenario(_NAME, "The service is killed under load and started again", (), _run)
