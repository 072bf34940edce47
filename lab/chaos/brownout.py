"""Three times the capacity is offered, with the bundle's lean graph and without, in turns: how much more is scored."""

from collections.abc import Sequence
from typing import NamedTuple

from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.overload import patient
from lab.chaos.scenario import Check, Scenario, ScenarioResult, Unable
from lab.chaos.timeline import UNANSWERED, Sample, ScenarioTimeline, count, percentile_ms
from msd.contract.bundle import open_bundle

_LEAST_GAIN = 1.5


class _Turn(NamedTuple):
    """One overload, with the lean graph or without."""

    is_lean: bool
    samples: Sequence[Sample]
    seconds: float

    @property
    def whole(self) -> int:
        """Replies with every candidate scored, in time."""
        return sum(one.kind in ("full", "lean") and one.over_s <= self.seconds for one in self.samples)

    @property
    def goodput(self) -> float:
        """Of these, per second."""
        return self.whole / self.seconds


class BrownoutGoodput(Scenario):
    """Turns of overload, with and without; each is of a service of its own."""

    name = "brownout"
    title = "Three times the load, with a lean graph and without"
    told = ("brownout_gain", "brownout_goodput", "brownout_goodput_without")

    def run(self) -> ScenarioResult:
        plan = self.plan
        lean = open_bundle(self.environment.bundle, rows=False).manifest.lean
        if lean is None:
            raise Unable("the bundle has no lean graph (`msd lean`)")
        rate, turns, timeline = 0.0, list[_Turn](), ScenarioTimeline()
        for number in range(2 * plan.brownout_turns):
            is_lean = number % 2 == 1
            self.hear(f"turn {number + 1}", number, 2 * plan.brownout_turns)
            setting = "on" if is_lean else "off"
            with self.environment.service(self.name, deadline_ms=plan.strict_deadline_ms, lean=setting) as service:
                target = self.environment.target(service.url)
                # Of the first turn, which is without: all get the same load.
                rate = rate or plan.overload * capacity(patient(target), plan.capacity_s)
                with BackgroundLoad(target, rate, plan.broken_s) as load:
                    load.mark(f"{plan.overload:g} × of what can be scored, the lean graph {setting}")
            turns.append(_Turn(is_lean, load.timeline.between(0.0, plan.broken_s), plan.broken_s))
            timeline = timeline.then(load.timeline, number * plan.broken_s)
        with_, without = ([one for one in turns if one.is_lean is is_lean] for is_lean in (True, False))
        goodput, before = (sum(one.goodput for one in some) / len(some) for some in (with_, without))
        samples = [sample for turn in with_ for sample in turn.samples]
        gain = goodput / before if before else None
        figures = self.named(
            gain=gain and round(gain, 3),
            goodput=round(goodput, 1),
            goodput_without=round(before, 1),
            least_turn=round(min(one.goodput for one in with_), 1),
            most_turn_without=round(max(one.goodput for one in without), 1),
            offered=round(rate, 1),
            scored_in_full=count(samples, "full"),
            scored_lean=count(samples, "lean"),
            auc_cost=round(lean.costs["pctr"].auc_cost, 5),
            p99_ms=percentile_ms(samples, 99),
        )
        every = [sample for turn in turns for sample in turn.samples]
        checks = (
            Check("no request is lost, none ends in an error", count(every, "error", *UNANSWERED) == 0),
            Check("without it none is scored lean", all(not count(one.samples, "lean") for one in without)),
            Check("with it some are", count(samples, "lean") > 0),
            Check(f"{_LEAST_GAIN:g} × as many are scored", gain is not None and gain >= _LEAST_GAIN, True),
        )
        return ScenarioResult(figures, checks, timeline)
