"""The service is told to end under load: whoever it let in is answered, and who comes later is refused at the door."""

from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import FIVES, count

_NAME = "sigterm"
_DRAIN_S = 1.0


def _run(environment: Environment) -> Found:
    plan = environment.plan
    with environment.service(_NAME, drain_seconds=_DRAIN_S) as service:
        target = environment.target(service.url)
        rate = plan.share * capacity(target, plan.capacity_s)
        with Load(target, rate, plan.steady_s + plan.broken_s) as load:
            load.until(plan.steady_s)
            service.terminate()
            told = load.mark("SIGTERM")
            status = service.wait_for_end()
            ended = load.mark("the service has ended")
    timeline = load.timeline
    lost = count(timeline.samples, "lost", "unanswered")
    fives = count(timeline.samples, *FIVES)
    refused = [sample.over_s for sample in timeline.samples if sample.kind == "refused"]
    return Found(
        {
            "sigterm_lost": lost,
            "sigterm_refused": len(refused),
            "sigterm_answered": count(timeline.between(told, ended), "full"),
            "sigterm_seconds": round(ended - told, 3),
        },
        (
            Check("every request that was let in is answered", lost == 0),
            Check("no reply is a 5xx", fives == 0, is_timed=0 < fives == count(timeline.samples, "late")),
            Check("it ends with status 0", status == 0),
            Check("the door stays open for the drain time", not refused or min(refused) > told + 0.9 * _DRAIN_S),
        ),
        timeline,
    )


SIGTERM = Scenario(_NAME, "SIGTERM under load", ("sigterm_lost",), _run)
