"""One run of a scenario: its amounts, processes and load, and its figures and checks. Knows no particular scenario."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from lab.bench.redis import RedisProcess
from lab.chaos.load import BackgroundLoad, capacity
from lab.chaos.timeline import DEGRADED, FIVES, UNANSWERED, Sample, ScenarioTimeline, count, percentile_ms
from lab.serve import with_limits
from loadtest.generator import Target
from loadtest.processes import Running, ours
from loadtest.requests import in_columns, some_bodies
from loadtest.traffic import Mix, Traffic
from msd.contract.errors import MsdError
from msd.process import ProcessUsage, held
from msd.report import Heard

MB = 2**20
Figure = float | int | str | None


class Unable(MsdError):
    """A scenario cannot be run here; the message says why."""


class Check(NamedTuple):
    """A property that must hold. `is_timed`: it is about durations, which another machine may not meet."""

    what: str
    holds: bool
    is_timed: bool = False


@dataclass(frozen=True)
class ChaosPlan:
    """Amounts and durations. Load has a steady, a broken and a recovery phase, at a `share` of the current capacity."""

    workers: int = 2
    candidates: int = 200
    bodies: int = 500
    share: float = 0.5
    capacity_s: float = 2.0
    steady_s: float = 4.0
    broken_s: float = 5.0
    mended_s: float = 4.0
    deadline_ms: int = 200
    strict_deadline_ms: int = 50
    overload: float = 3.0
    swaps: int = 12
    swaps_beside: int = 6
    """Swaps at a higher share, beside a busy neighbour."""
    swap_every_s: float = 1.0
    attackers: float = 1.0
    """Multiple of each attack's connections."""
    attack_s: float = 5.0
    bad_requests: int = 20_000
    live_rows: int = 5_000
    resamples: int = 500
    day_s: float = 300.0
    day_rate: float = 8.0
    chore_s: float = 6.0
    """Between two of the things that happen in a day."""

    @property
    def seconds(self) -> float:
        """Seconds of all three phases."""
        return self.steady_s + self.broken_s + self.mended_s


@dataclass
class Run:
    """One run of a scenario, whose files and logs go to a folder of its name in `out`.

    `bundle` is served, `other` has other weights and the same users and items; `encoding` has an encoder of texts, and
    beside it what it was trained on. The scenario adds `figures` and `checks`, and may set `timeline`. `seed`: of what
    differs between two runs of it.
    """

    name: str
    bundle: Path
    out: Path
    plan: ChaosPlan
    heard: Heard
    other: Path | None = None
    encoding: Path = Path("runs/demo/bundle")
    seed: int = 1
    figures: dict[str, Figure] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    timeline: ScenarioTimeline = field(default_factory=ScenarioTimeline)

    @property
    def folder(self) -> Path:
        return self.out / self.name

    def hear(self, doing: str, done: int = 0, total: int = 1) -> None:
        """Report progress."""
        self.heard(f"{self.name}: {doing}", done, total)

    def check(self, what: str, holds: bool, is_timed: bool = False) -> None:
        """Add a check."""
        self.checks.append(Check(what, holds, is_timed))

    def usage(self, pid: int, at_s: float) -> ProcessUsage:
        """Return a process's current usage, and add it to the timeline; of the memory, what is its own alone."""
        now = held(pid)
        for name, value in (("memory, MB", now.anonymous / MB), ("open files", now.files), ("threads", now.threads)):
            self.timeline.levels.setdefault(name, []).append((round(at_s, 1), round(value, 2)))
        return now

    @contextmanager
    def redis(self) -> Iterator[RedisProcess]:
        """Start a persistent Redis-compatible server with the bundle published."""
        with RedisProcess(self.folder / "redis") as redis:
            redis.publish(self.bundle)
            yield redis

    def service(
        self,
        redis: str | None = None,
        *,
        bundle: Path | None = None,
        preload: Path | None = None,
        limits: Mapping[str, float] | None = None,
        **settings: object,
    ) -> Running:
        """Run a ready service within a block, with settings and `service.limits` by name, and a library preloaded."""
        settings = {"deadline_ms": self.plan.deadline_ms, "log_level": "info", **settings}
        service = ours(self.name, bundle or self.bundle, self.plan.workers, redis, **settings)
        if limits is not None:
            service = with_limits(service, **limits)
        if preload is not None:
            service = replace(service, environment={**service.environment, "LD_PRELOAD": str(preload)})
        return Running(service, self.folder)

    def target(self, service: Running, candidates: int | Mix | None = None, bundle: Path | None = None) -> Target:
        """Return a service with its requests, which are the same in every scenario."""
        traffic = Traffic(bundle or self.bundle, candidates or self.plan.candidates, seed=1)
        return Target(service.url, in_columns(some_bodies(traffic, self.plan.bodies)))

    @contextmanager
    def load(self, target: Target, rate: float | None = None, seconds: float | None = None) -> Iterator[BackgroundLoad]:
        """Load the service; the block, which breaks something with marks, begins after the steady phase. Afterwards the
        usual figures and checks are there, and `timeline`. Default: a share of the capacity, for three phases."""
        rate = rate or self.plan.share * capacity(target, self.plan.capacity_s)
        with BackgroundLoad(target, rate, seconds or self.plan.seconds) as load:
            load.until(self.plan.steady_s)
            yield load
        self.timeline = load.timeline
        samples = self.timeline.samples
        broken_s, mended_s = self.timeline.broken_s, self.timeline.mended_s
        self.figures |= {
            "5xx": count(samples, *FIVES),
            "refused": count(samples, "busy"),
            "degraded": count(samples, *DEGRADED),
            "p99_ms": percentile_ms(self.timeline.between(broken_s, mended_s), 99),
            "steady_p99_ms": percentile_ms(self.timeline.between(0.0, broken_s), 99),
        }
        self.usual_checks(samples)

    def usual_checks(self, samples: Sequence[Sample], what: str = "") -> None:
        """Add the checks of every load; late replies (504) are a matter of time."""
        fives, late = count(samples, *FIVES), count(samples, "late")
        self.check(f"{what}no reply is a 5xx", fives == 0, is_timed=0 < fives == late)
        self.check(f"{what}no request is lost", count(samples, "invalid", *UNANSWERED) == 0)
        self.check(f"{what}none is refused for overload", count(samples, "busy") == 0, is_timed=True)
