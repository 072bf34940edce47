"""What a scenario is, what it finds, and how one that cannot be run says so. Knows none of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadtest.chaos.environment import Environment
from loadtest.chaos.timeline import FIVES, Sample, Timeline, count
from msd.contract.errors import MsdError

Figure = float | int | None


class Unable(MsdError):
    """A scenario cannot be run here; the message says why."""


class Check(NamedTuple):
    """Something that has to hold. `is_timed`: it speaks of durations, which another machine may not keep."""

    what: str
    holds: bool
    is_timed: bool = False


def usual_checks(samples: Sequence[Sample]) -> tuple[Check, ...]:
    """What has to hold of every load. That some were late is a matter of time."""
    fives, late = count(samples, *FIVES), count(samples, "late")
    return (
        Check("no reply is a 5xx", fives == 0, is_timed=0 < fives == late),
        Check("no request is lost", count(samples, "lost", "unanswered", "refused", "invalid") == 0),
        Check("none is refused for overload", count(samples, "busy") == 0, is_timed=True),
    )


@dataclass(frozen=True)
class Found:
    """What came of a scenario: its figures by name, what had to hold, and what happened when."""

    figures: Mapping[str, Figure]
    checks: tuple[Check, ...]
    timeline: Timeline | None


@dataclass(frozen=True)
class Scenario:
    """One thing that is broken. `told`: those of its figures that the summary has, None where it could not be run."""

    name: str
    title: str
    told: tuple[str, ...]
    run: Callable[[Environment], Found]
