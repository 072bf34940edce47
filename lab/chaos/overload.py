"""Overload: the service must score as many requests in time as it can, and refuse the rest."""

from dataclasses import replace

from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.run import Run
from lab.chaos.timeline import SCORED, UNANSWERED, Sample, count, percentile, percentile_ms
from loadtest.generator import Target

_GOODPUT, _SHED_MS = 0.9, 5.0
_LONG_MS = 10_000


def overload(run: Run) -> None:
    """Overload for a while; then normal load."""
    plan, deadline_ms = run.plan, run.plan.strict_deadline_ms
    with run.service(deadline_ms=deadline_ms) as service:
        target = run.target(service)
        before = capacity(patient(target), plan.capacity_s)
        with BackgroundLoad(target, plan.overload * before, plan.broken_s) as load:
            load.mark(f"{plan.overload:g} × the capacity")
        with BackgroundLoad(target, plan.share * before, plan.mended_s) as rest:
            rest.mark("as usual")
        # A shared machine's speed varies.
        able = (before + capacity(patient(target), plan.capacity_s)) / 2
    run.timeline = load.timeline.then(rest.timeline, plan.broken_s)
    samples, later = load.timeline.between(0.0, plan.broken_s), rest.timeline.samples
    # A partial reply is better than none, but capacity counts whole ones.
    goodput = _in_time(samples, plan.broken_s) / plan.broken_s / able
    sheds = [1e3 * (seen.over - seen.sent) for seen in load.seen if seen.status in (429, 503, 504)]
    shed_ms, p99 = percentile(sheds, 99), percentile_ms(samples, 99)
    run.figures |= {
        "goodput": round(goodput, 4),
        "p99_ms": p99,
        "shed_p99_ms": shed_ms,
        "offered": plan.overload * before,
        "capacity": round(able, 1),
        "shed": len(sheds),
        "in_part": count(samples, "prior"),
    }
    run.check("no request is lost, none ends in an error", count(samples, "error", *UNANSWERED) == 0)
    run.check("some are refused", len(sheds) > 0)
    run.check("afterwards none is", count(later, *SCORED) == len(later), True)
    run.check(f"goodput is at least {_GOODPUT:.0%} of capacity", goodput >= _GOODPUT, True)
    run.check(f"refusals take at most {_SHED_MS:g} ms", shed_ms is not None and shed_ms <= _SHED_MS, True)
    run.check(f"p99 of the scored within {deadline_ms} ms", p99 is not None and p99 <= deadline_ms, True)


def patient(target: Target) -> Target:
    """Return the same requests with long deadlines. Capacity is measured by clients that are never refused, because
    refused ones retry at once and take time from others."""
    first, also = b"\r\n", b"\r\nX-Deadline-Ms: %d\r\n" % _LONG_MS
    return replace(target, requests=[request.replace(first, also, 1) for request in target.requests])


def _in_time(samples: list[Sample], seconds: float) -> int:
    """Return how many have every candidate scored by then."""
    return sum(sample.kind == "full" and sample.over_s <= seconds for sample in samples)
