"""What a scenario is, what it finds, and the harness of those that break something under load. Knows none of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from loadtest.bench.processes import Running
from loadtest.bench.redis import RedisProcess
from loadtest.chaos.environment import Environment
from loadtest.chaos.load import BackgroundLoad, capacity
from loadtest.chaos.timeline import DEGRADED, FIVES, UNANSWERED, Sample, Timeline, count, percentile_ms
from loadtest.generator import Target
from msd.contract.errors import MsdError

Figure = float | int | None


class Unable(MsdError):
    """A scenario cannot be run here; the message says why."""


class Check(NamedTuple):
    """Something that has to hold. `is_timed`: it speaks of durations, which another machine may not keep."""

    what: str
    holds: bool
    is_timed: bool = False


@dataclass(frozen=True)
class ScenarioResult:
    """What came of a scenario: its figures by name, what had to hold, and what happened when."""

    figures: Mapping[str, Figure]
    checks: tuple[Check, ...]
    timeline: Timeline | None


class Scenario(ABC):
    """One thing that is broken. `told`: those of its figures that the summary has, None where it could not be run."""

    name: ClassVar[str]
    title: ClassVar[str]
    told: ClassVar[tuple[str, ...]] = ()

    def __init__(self, environment: Environment) -> None:
        self.environment, self.plan = environment, environment.plan

    @abstractmethod
    def run(self) -> ScenarioResult:
        """Runs it. Raises MsdError where it cannot be run."""

    @property
    def folder(self) -> Path:
        """Where it keeps what it makes, and its services' logs."""
        return self.environment.work / self.name

    def hear(self, doing: str, done: int = 0, total: int = 1) -> None:
        """Tells how far it is."""
        self.environment.heard(f"{self.name}: {doing}", done, total)

    def named(self, **figures: Figure) -> dict[str, Figure]:
        """Figures by their full names."""
        return {f"{self.name.replace('-', '_')}_{name}": value for name, value in figures.items()}


class UnderLoad(Scenario):
    """A service is asked at a share of what it can score just then, and something is done to it or beside it.

    The load is steady for a while; from the first mark to the last something is broken; then it is mended for a while.
    """

    in_redis: ClassVar[bool] = False
    """Whether rows come from Redis, which is `redis` then, or from the bundle's files."""
    redis: RedisProcess
    service: Running
    target: Target
    load: BackgroundLoad

    @abstractmethod
    def disturb(self) -> None:
        """What is done, with marks, once the load has been steady for a while."""

    def before(self) -> None:
        """What is looked at before the load begins."""

    def after(self) -> None:
        """What is looked at when the load is over and the service still there."""

    def figures(self) -> Mapping[str, Figure]:
        """Beside those that all have."""
        return {}

    @abstractmethod
    def checks(self) -> Iterable[Check]:
        """What has to hold beside `usual_checks`."""

    def usual_checks(self) -> Iterable[Check]:
        """What has to hold of the whole load."""
        return usual_checks(self.timeline.samples)

    def settings(self) -> Mapping[str, Any]:
        """Of the service, as `Environment.service` takes them."""
        return {}

    @contextmanager
    def services(self) -> Iterator[Running]:
        """The service, and what it needs."""
        if self.in_redis:
            with (
                self.environment.redis(self.name) as self.redis,
                self.environment.service(self.name, self.redis.url, **self.settings()) as running,
            ):
                yield running
        else:
            with self.environment.service(self.name, **self.settings()) as running:
                yield running

    def asked(self) -> Target:
        """The service and what it is asked."""
        return self.environment.target(self.service.url)

    def rate(self, able: float) -> float:
        """Requests a second, by what can be scored."""
        return self.plan.share * able

    def seconds(self) -> float:
        """How long the load goes on, unless it is stopped."""
        return self.plan.seconds

    def run(self) -> ScenarioResult:
        with self.services() as self.service:
            self.target = self.asked()
            rate = self.rate(capacity(self.target, self.plan.capacity_s))
            self.before()
            with BackgroundLoad(self.target, rate, self.seconds()) as self.load:
                self.load.until(self.plan.steady_s)
                self.disturb()
            self.after()
        samples = self.timeline.samples
        figures = self.named(
            **{"5xx": count(samples, *FIVES)},
            refused=count(samples, "busy"),
            degraded=count(samples, *DEGRADED),
            p99_ms=percentile_ms(self.timeline.between(self.broken_s, self.mended_s), 99),
            steady_p99_ms=percentile_ms(self.timeline.between(0.0, self.broken_s), 99),
        )
        return ScenarioResult({**figures, **self.figures()}, (*self.usual_checks(), *self.checks()), self.timeline)

    @property
    def timeline(self) -> Timeline:
        """What came of the load, and what was done."""
        return self.load.timeline

    @property
    def broken_s(self) -> float:
        """The second of the first mark."""
        return self.timeline.marks[0].at_s

    @property
    def mended_s(self) -> float:
        """The second of the last mark."""
        return self.timeline.marks[-1].at_s


def usual_checks(samples: Sequence[Sample]) -> tuple[Check, ...]:
    """What has to hold of every load."""
    return (
        no_fives(samples),
        Check("no request is lost", count(samples, "invalid", *UNANSWERED) == 0),
        Check("none is refused for overload", count(samples, "busy") == 0, is_timed=True),
    )


def no_fives(samples: Sequence[Sample], what: str = "no reply is a 5xx") -> Check:
    """That there are none. That some were late is a matter of time."""
    fives, late = count(samples, *FIVES), count(samples, "late")
    return Check(what, fives == 0, is_timed=0 < fives == late)
