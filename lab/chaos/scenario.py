"""Scenarios, their results, and the harness of those that break something under load. Knows no particular scenario."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lab.bench.redis import RedisProcess
from lab.chaos.environment import Environment
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.timeline import DEGRADED, FIVES, UNANSWERED, Sample, ScenarioTimeline, count, percentile_ms
from loadtest.generator import Target
from loadtest.processes import Running
from msd.contract.errors import MsdError

Figure = float | int | None


class Unable(MsdError):
    """A scenario cannot be run here; the message says why."""


class Check(NamedTuple):
    """A property that must hold. `is_timed`: it is about durations, which another machine may not meet."""

    what: str
    holds: bool
    is_timed: bool = False


@dataclass(frozen=True)
class ScenarioResult:
    """Result of a scenario: figures by name, checks, and timeline."""

    figures: Mapping[str, Figure]
    checks: tuple[Check, ...]
    timeline: ScenarioTimeline | None


class Scenario(ABC):
    """One failure. `told`: the figures of the summary, None if it could not be run."""

    name: ClassVar[str]
    title: ClassVar[str]
    told: ClassVar[tuple[str, ...]] = ()

    def __init__(self, environment: Environment) -> None:
        self.environment, self.plan = environment, environment.plan

    @abstractmethod
    def run(self) -> ScenarioResult:
        """Run it. Raises MsdError if it cannot be run."""

    @property
    def folder(self) -> Path:
        """Folder of its files and its services' logs."""
        return self.environment.work / self.name

    def hear(self, doing: str, done: int = 0, total: int = 1) -> None:
        """Report progress."""
        self.environment.heard(f"{self.name}: {doing}", done, total)

    def named(self, **figures: Figure) -> dict[str, Figure]:
        """Return figures by their full names."""
        return {f"{self.name.replace('-', '_')}_{name}": value for name, value in figures.items()}


class UnderLoad(Scenario):
    """A scenario under load at a share of the current capacity.

    The load is steady for a while; from the first mark to the last something is broken; then it recovers for a while.
    """

    in_redis: ClassVar[bool] = False
    """Whether rows come from Redis (`redis`) or from the bundle's files."""
    redis: RedisProcess
    service: Running
    target: Target
    load: BackgroundLoad

    @abstractmethod
    def disturb(self) -> None:
        """Break something, with marks, after the steady phase."""

    def before(self) -> None:
        """Observe the service before the load."""

    def after(self) -> None:
        """Observe the service after the load."""

    def figures(self) -> Mapping[str, Figure]:
        """Return figures beyond the common ones."""
        return {}

    @abstractmethod
    def checks(self) -> Iterable[Check]:
        """Return checks beyond `usual_checks`."""

    def usual_checks(self) -> Iterable[Check]:
        """Return the checks of the whole load."""
        return usual_checks(self.timeline.samples)

    def settings(self) -> Mapping[str, Any]:
        """Return the service's settings."""
        return {}

    @contextmanager
    def services(self) -> Iterator[Running]:
        """Start the service and its dependencies."""
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
        """Return the service with its requests."""
        return self.environment.target(self.service.url)

    def rate(self, able: float) -> float:
        """Return requests per second, by capacity."""
        return self.plan.share * able

    def seconds(self) -> float:
        """Seconds of the load, unless it is stopped."""
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
    def timeline(self) -> ScenarioTimeline:
        """Return the load's outcomes and marks."""
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
    """Return the checks of every load."""
    return (
        no_fives(samples),
        Check("no request is lost", count(samples, "invalid", *UNANSWERED) == 0),
        Check("none is refused for overload", count(samples, "busy") == 0, is_timed=True),
    )


def no_fives(samples: Sequence[Sample], what: str = "no reply is a 5xx") -> Check:
    """Return the check for 5xx replies; late ones (504) are a matter of time."""
    fives, late = count(samples, *FIVES), count(samples, "late")
    return Check(what, fives == 0, is_timed=0 < fives == late)
