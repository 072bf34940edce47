"""Three times as many requests as can be scored: it still scores as many, in time, and refuses the others at once."""

from dataclasses import replace

from loadtest.chaos.environment import Environment
from loadtest.chaos.load import Load, capacity
from loadtest.chaos.scenario import Check, Found, Scenario
from loadtest.chaos.timeline import SCORED, count, percentile, percentile_ms
from loadtest.generator import Target

_NAME = "overload"
_GOODPUT, _SHED_MS = 0.9, 5.0
_LONG_MS = 10_000


def _run(environment: Environment) -> Found:
    plan = environment.plan
    deadline_ms = plan.strict_deadline_ms
    with environment.service(_NAME, deadline_ms=deadline_ms) as service:
        target = environment.target(service.url)
        before = capacity(patient(target), plan.capacity_s)
        with Load(target, plan.overload * before, plan.broken_s) as load:
            load.mark(f"{plan.overload:g} × of what can be scored")
        with Load(target, plan.share * before, plan.mended_s) as rest:
            rest.mark("as usual")
        # A machine that others use too is not of one pace.
        able = (before + capacity(patient(target), plan.capacity_s)) / 2
    timeline = load.timeline.then(rest.timeline, plan.broken_s)
    over = timeline.between(0.0, plan.broken_s)
    # A reply in part is better than none, and not what capacity is counted in.
    goodput = sum(sample.kind == "full" and sample.over_s <= plan.broken_s for sample in over) / plan.broken_s
    sheds = [seen.over - seen.sent for seen in load.seen_of(429, 503, 504)]
    shed_ms = percentile([1e3 * one for one in sheds], 99)
    p99 = percentile_ms(over, 99)
    errors, gone = count(over, "error"), count(over, "lost", "unanswered", "refused")
    return Found(
        {
            "overload_goodput": round(goodput / able, 4),
            "overload_p99_ms": p99,
            "shed_p99_ms": shed_ms,
            "overload_offered": plan.overload * before,
            "overload_capacity": round(able, 1),
            "overload_shed": len(sheds),
            "overload_in_part": count(over, "prior"),
            "overload_client_late_p99_ms": round(load.outcome.late.percentile_ms(99), 3),
        },
        (
            Check("no request is lost, none ends in an error", errors + gone == 0),
            Check("some are refused", len(sheds) > 0),
            Check("afterwards none is", count(rest.timeline.samples, *SCORED) == len(rest.timeline.samples), True),
            Check(f"goodput is at least {_GOODPUT:.0%} of capacity", goodput >= _GOODPUT * able, True),
            Check(f"refusals take at most {_SHED_MS:g} ms", shed_ms is not None and shed_ms <= _SHED_MS, True),
            Check(f"p99 of the scored within {deadline_ms} ms", p99 is not None and p99 <= deadline_ms, True),
        ),
        timeline,
    )


def patient(target: Target) -> Target:
    """The same with long deadlines: what can be scored is to be told by clients none of whom is refused, who would ask
    again at once and take the time of the others."""
    first, also = b"\r\n", b"\r\nX-Deadline-Ms: %d\r\n" % _LONG_MS
    return replace(target, requests=[request.replace(first, also, 1) for request in target.requests])


OVERLOAD = Scenario(
    _NAME,
    "Three times the load that it can bear",
    ("overload_goodput", "overload_p99_ms", "shed_p99_ms"),
    _run,
)
