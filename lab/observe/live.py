"""A service with every feature on, under load and disturbances, watched by Prometheus."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lab.bench.redis import RedisProcess
from lab.chaos.bundles import point_to
from lab.chaos.load import BackgroundLoad
from lab.observe.ad_server import SimulatedAdServer
from lab.observe.prometheus import Prometheus, prometheus
from loadtest.generator import LoadLimits, Target, closed_loop
from loadtest.processes import Running, Service, msd_output, ours, publish
from loadtest.requests import http_request, in_columns, some_bodies
from loadtest.traffic import Traffic
from msd.contract.bundle import MANIFEST
from msd.contract.errors import MsdError

_MIX = {50: 3.0, 200: 1.0}
_BODIES = 400
_LIMITS = LoadLimits(goes_on=True)
_BURST_CLIENTS, _BURST_S, _BURST_DEADLINE_MS = 48, 5.0, 25
_EXPERIMENT = {
    "salt": "observed",
    "arms": [
        {"name": "champion", "bundle": "current", "weight": 9},
        {"name": "plain", "bundle": "other", "weight": 1},
    ],
    "shadow": [{"name": "dark", "bundle": "other"}],
}


class Happening(NamedTuple):
    """An action, and its time as a share of the run."""

    share: float
    what: str
    do: Callable[[], object]


class Watched(NamedTuple):
    """A finished run whose service still runs: start, end, and actions."""

    prometheus: Prometheus
    start: float
    end: float
    marks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ObservePlan:
    """Duration, requests per second beside those of the ad server, and scoring threads."""

    seconds: float = 60.0
    rate: float = 40.0
    workers: int = 2


@contextmanager
def watched(bundle: Path, other: Path, rules: Path, work: Path, plan: ObservePlan) -> Iterator[Watched]:
    """Run everything; the service runs until the block's end. `other` is a bundle for the same users and items."""
    shutil.rmtree(work, ignore_errors=True)
    bundles = _folder(bundle, other, work / "bundles")
    with RedisProcess(work / "redis") as redis:
        publish(bundle, redis.url)
        msd_output("publish", str(other), "--redis", redis.url, "--beside")
        with Running(_service(bundles, redis.url, work, plan), work) as service:
            with prometheus(work / "prometheus", service.url, rules) as server:
                start = time.time()
                bodies = some_bodies(Traffic(bundle, _MIX, seed=1), _BODIES)
                marks = _run(service.url, bodies, _happenings(service.url, bodies, bundles, other, redis), plan)
                yield Watched(server, start, time.time(), tuple(marks))


def _folder(bundle: Path, other: Path, folder: Path) -> Path:
    for name, source in (("first", bundle), ("other", other)):
        if not (source / MANIFEST).exists():
            raise MsdError(f"{source} is not a bundle: it has no {MANIFEST}; `make demo` makes two")
        shutil.copytree(source, folder / name)
    point_to(folder, "first")
    (folder / "experiment.json").write_text(json.dumps(_EXPERIMENT))
    return folder


def _service(bundles: Path, redis: str, work: Path, plan: ObservePlan) -> Service:
    """Start the service with rows from Redis, live state, cold ads, a log of all requests, arms and a shadow."""
    settings = {
        "live": "on",
        "encoder": "on",
        "log_dir": work / "log",
        "log_sample": 1.0,
        "log_flush_seconds": 2,
        "deadline_ms": 500,
    }
    return ours("observed", bundles, plan.workers, redis, **settings)


def _happenings(url: str, bodies: list[bytes], bundles: Path, other: Path, redis: RedisProcess) -> list[Happening]:
    hurried = [http_request("/v1/score", body, X_Deadline_Ms=str(_BURST_DEADLINE_MS)) for body in bodies]
    burst = partial(closed_loop, Target(url, hurried), _BURST_CLIENTS, _BURST_S, _LIMITS)
    return [
        Happening(0.20, "another bundle", lambda: publish(other, redis.url)),
        Happening(0.35, "back to the first", lambda: msd_output("rollback", "--redis", redis.url)),
        Happening(0.52, "Redis hangs", redis.freeze),
        Happening(0.58, "Redis answers again", redis.thaw),
        Happening(0.70, "more than can be scored", burst),
        Happening(0.85, "no experiment", lambda: (bundles / "experiment.json").write_text("{}")),
    ]


def _run(url: str, bodies: list[bytes], happenings: list[Happening], plan: ObservePlan) -> list[tuple[float, str]]:
    """Run load and actions; return the actions' Unix times."""
    marks: list[tuple[float, str]] = []
    with (
        SimulatedAdServer(url, bodies).asking(),
        BackgroundLoad(Target(url, in_columns(bodies)), plan.rate, plan.seconds) as load,
    ):
        for one in happenings:
            load.until(one.share * plan.seconds)
            marks.append((time.time(), one.what))
            one.do()
    return marks
