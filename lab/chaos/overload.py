"""Three times the capacity is offered: the service still scores as many in time, and refuses the rest at once."""

from dataclasses import replace

from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.scenario import Check, Scenario, ScenarioResult
from lab.chaos.timeline import SCORED, UNANSWERED, count, percentile, percentile_ms
from loadtest.generator import Target

_GOODPUT, _SHED_MS = 0.9, 5.0
_LONG_MS = 10_000


class Overload(Scenario):
    """Overload for a while; then normal load."""

    name = "overload"
    title = "Three times the load that it can bear"
    told = ("overload_goodput", "overload_p99_ms", "shed_p99_ms")

    def run(self) -> ScenarioResult:
        plan, deadline_ms = self.plan, self.plan.strict_deadline_ms
        with self.environment.service(self.name, deadline_ms=deadline_ms) as service:
            target = self.environment.target(service.url)
            before = capacity(patient(target), plan.capacity_s)
            with BackgroundLoad(target, plan.overload * before, plan.broken_s) as load:
                load.mark(f"{plan.overload:g} × of what can be scored")
            with BackgroundLoad(target, plan.share * before, plan.mended_s) as rest:
                rest.mark("as usual")
            # A shared machine's speed varies.
            able = (before + capacity(patient(target), plan.capacity_s)) / 2
        timeline = load.timeline.then(rest.timeline, plan.broken_s)
        over, again = timeline.between(0.0, plan.broken_s), rest.timeline.samples
        # A partial reply is better than none, but capacity counts whole ones.
        goodput = sum(sample.kind == "full" and sample.over_s <= plan.broken_s for sample in over) / plan.broken_s
        sheds = [1e3 * (seen.over - seen.sent) for seen in load.seen if seen.status in (429, 503, 504)]
        shed_ms, p99 = percentile(sheds, 99), percentile_ms(over, 99)
        figures = self.named(
            goodput=round(goodput / able, 4),
            p99_ms=p99,
            offered=plan.overload * before,
            capacity=round(able, 1),
            shed=len(sheds),
            in_part=count(over, "prior"),
            client_late_p99_ms=round(load.outcome.late.percentile_ms(99), 3),
        )
        checks = (
            Check("no request is lost, none ends in an error", count(over, "error", *UNANSWERED) == 0),
            Check("some are refused", len(sheds) > 0),
            Check("afterwards none is", count(again, *SCORED) == len(again), True),
            Check(f"goodput is at least {_GOODPUT:.0%} of capacity", goodput >= _GOODPUT * able, True),
            Check(f"refusals take at most {_SHED_MS:g} ms", shed_ms is not None and shed_ms <= _SHED_MS, True),
            Check(f"p99 of the scored within {deadline_ms} ms", p99 is not None and p99 <= deadline_ms, True),
        )
        return ScenarioResult({**figures, "shed_p99_ms": shed_ms}, checks, timeline)


def patient(target: Target) -> Target:
    """The same clients with long deadlines: capacity is measured by clients that are never refused, because refused
    ones retry at once and take time from others."""
    first, also = b"\r\n", b"\r\nX-Deadline-Ms: %d\r\n" % _LONG_MS
    return replace(target, requests=[request.replace(first, also, 1) for request in target.requests])
