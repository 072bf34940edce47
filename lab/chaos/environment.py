"""Fixture of a scenario: a bundle, processes of the service and of Redis, and requests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.bench.redis import RedisProcess
from lab.chaos.plan import ChaosPlan
from lab.serve import with_limits
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection, wait_until
from loadtest.processes import Running, ours
from loadtest.requests import in_columns, some_bodies
from loadtest.traffic import Mix, Traffic
from msd.report import Heard

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    """Environment of one run.

    `bundle` is served, `other` has other weights and the same users and items; `work` has a folder for each scenario;
    `data` is a benchmark's dataset, and what is trained on it is `kept`.
    """

    bundle: Path
    work: Path
    plan: ChaosPlan
    heard: Heard
    other: Path | None = None
    data: Path | None = None
    kept: Path = Path("runs/bench")
    _targets: dict[str, list[bytes]] = field(default_factory=dict)

    @contextmanager
    def redis(self, name: str) -> Iterator[RedisProcess]:
        """Start a persistent Redis-compatible server with the bundle published."""
        with RedisProcess(self.work / name / "redis") as redis:
            redis.publish(self.bundle)
            yield redis

    def service(
        self,
        name: str,
        redis: str | None = None,
        *,
        bundle: Path | None = None,
        workers: int | None = None,
        python_path: Path | None = None,
        is_read: bool = True,
        **settings: object,
    ) -> Running:
        """Run a ready service within a block, with settings by name.

        Names in capitals are limits (`service.limits`). Its log is the scenario's; modules in `python_path` take
        precedence. Unless `is_read`, its log goes to an unread pipe.
        """
        bounds = {name: settings.pop(name) for name in list(settings) if name.isupper()}
        given = {"deadline_ms": self.plan.deadline_ms, "log_level": "info", **settings}
        service = ours(name, bundle or self.bundle, workers or self.plan.workers, redis, **given)
        if bounds:
            service = with_limits(service, **bounds)
        if python_path is not None:
            path = os.pathsep.join((str(python_path), str(_ROOT)))
            service = replace(service, environment={**service.environment, "PYTHONPATH": path})
        return Running(service, self.work / name, is_read=is_read)

    def target(self, url: str, candidates: int | Mix | None = None, bundle: Path | None = None) -> Target:
        """Return a service with its requests, which are the same in every scenario."""
        mix, folder = candidates or self.plan.candidates, bundle or self.bundle
        key = f"{folder} {mix}"
        if key not in self._targets:
            self._targets[key] = in_columns(some_bodies(Traffic(folder, mix, seed=1), self.plan.bodies))
        return Target(url, self._targets[key])


def wait_for(url: str, sample: str, least: float) -> None:
    """Wait until a sample has reached a value. Raises ClientError if it does not; a failed scrape counts as not yet."""

    def is_there() -> bool:
        with ServiceConnection(url) as client:
            return client.metric(sample) >= least

    wait_until(f"{url}: {sample} comes to {least:g}", is_there)
