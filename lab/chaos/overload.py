"""More is offered than the service can score: it scores as many in time, by a lean graph more, and refuses the rest."""

from dataclasses import replace

from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.run import Run, Unable
from lab.chaos.timeline import SCORED, UNANSWERED, Sample, count, percentile, percentile_ms
from loadtest.generator import Target
from msd.contract.bundle import open_bundle

_GOODPUT, _SHED_MS, _LEAN_GAIN = 0.9, 5.0, 1.5
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
    goodput = _in_time(samples, plan.broken_s, lean=False) / plan.broken_s / able
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


def brownout(run: Run) -> None:
    """The same overload without the bundle's lean graph and with it."""
    plan = run.plan
    if open_bundle(run.bundle, rows=False).manifest.lean is None:
        raise Unable("the bundle has no lean graph (`msd lean`)")
    rate, turns = 0.0, {}
    for setting in ("off", "on"):
        run.hear(f"lean graph {setting}")
        with run.service(deadline_ms=plan.strict_deadline_ms, lean=setting) as service:
            target = run.target(service)
            # Both get the same load.
            rate = rate or plan.overload * capacity(patient(target), plan.capacity_s)
            with BackgroundLoad(target, rate, plan.broken_s) as load:
                load.mark(f"{plan.overload:g} × the capacity, lean graph {setting}")
        turns[setting] = load.timeline.between(0.0, plan.broken_s)
        run.timeline = run.timeline.then(load.timeline, run.timeline.end_s)
    without, lean = (_in_time(samples, plan.broken_s, lean=True) / plan.broken_s for samples in turns.values())
    gain = lean / without if without else None
    run.figures |= {
        "gain": gain and round(gain, 3),
        "goodput": round(lean, 1),
        "goodput_without": round(without, 1),
        "offered": round(rate, 1),
        "scored_lean": count(turns["on"], "lean"),
        "p99_ms": percentile_ms(turns["on"], 99),
    }
    errors = count(turns["off"] + turns["on"], "error", *UNANSWERED)
    run.check("no request is lost, none ends in an error", errors == 0)
    run.check("without the lean graph none is scored by it", not count(turns["off"], "lean"))
    run.check("with it some are", count(turns["on"], "lean") > 0)
    run.check(f"{_LEAN_GAIN:g} × as many are scored", gain is not None and gain >= _LEAN_GAIN, True)


def patient(target: Target) -> Target:
    """Return the same requests with long deadlines. Capacity is measured by clients that are never refused, because
    refused ones retry at once and take time from others."""
    first, also = b"\r\n", b"\r\nX-Deadline-Ms: %d\r\n" % _LONG_MS
    return replace(target, requests=[request.replace(first, also, 1) for request in target.requests])


def _in_time(samples: list[Sample], seconds: float, *, lean: bool) -> int:
    """Return how many have every candidate scored by then."""
    kinds = ("full", "lean") if lean else ("full",)
    return sum(sample.kind in kinds and sample.over_s <= seconds for sample in samples)
