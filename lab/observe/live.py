"""A service with every feature on, under load and disturbances, watched by Prometheus."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lab.bench.redis import RedisProcess
from lab.chaos.bundles import point_to
from lab.chaos.load import BackgroundLoad
from lab.observe.ad_server import SimulatedAdServer
from lab.observe.prometheus import Prometheus, prometheus
from lab.serve import with_limits
from loadtest.generator import LoadLimits, Target, closed_loop
from loadtest.processes import Running, msd_output, ours, publish
from loadtest.requests import http_request, in_columns, some_bodies
from loadtest.traffic import Traffic
from msd.contract.bundle import MANIFEST
from msd.contract.errors import MsdError

RULES = Path("helm/msd-ctr/files/rules.yaml")
SECONDS = 60.0
# Requests per second beside those of the ad server.
_RATE, _WORKERS = 40.0, 2
_MIX = {50: 3.0, 200: 1.0}
_BODIES = 400
_BURST_CLIENTS, _BURST_S, _BURST_DEADLINE_MS = 48, 5.0, 25
_EXPERIMENT = {
    "salt": "observed",
    "arms": [
        {"name": "champion", "bundle": "current", "weight": 9},
        {"name": "plain", "bundle": "other", "weight": 1},
    ],
    "shadow": [{"name": "dark", "bundle": "other"}],
}


class Watched(NamedTuple):
    """A finished run whose service still runs: start and end."""

    prometheus: Prometheus
    start: float
    end: float


@contextmanager
def watched(bundle: Path, other: Path, rules: Path, work: Path, seconds: float) -> Iterator[Watched]:
    """Run everything; the service runs until the block's end. `other` is a bundle for the same users and items."""
    if not rules.exists():
        raise MsdError(f"{rules}: no such file; run it in the checkout")
    shutil.rmtree(work, ignore_errors=True)
    bundles = work / "bundles"
    for name, source in (("first", bundle), ("other", other)):
        if not (source / MANIFEST).exists():
            raise MsdError(f"{source} is not a bundle: it has no {MANIFEST}; `make demo` makes two")
        shutil.copytree(source, bundles / name)
    point_to(bundles, "first")
    (bundles / "experiment.json").write_text(json.dumps(_EXPERIMENT))
    with RedisProcess(work / "redis") as redis:
        publish(bundle, redis.url)
        msd_output("publish", str(other), "--redis", redis.url, "--beside")
        # Rows from Redis, live state, cold ads, a log of all requests, arms and a shadow.
        settings = {"live": "on", "encoder": "on", "log_dir": work / "log", "log_sample": 1.0}
        observed = ours("observed", bundles, _WORKERS, redis.url, deadline_ms=500, **settings)
        with (
            Running(with_limits(observed, LOG_FLUSH_S=2), work) as service,
            prometheus(work / "prometheus", service.url, rules) as server,
        ):
            start = time.time()
            bodies = some_bodies(Traffic(bundle, _MIX, seed=1), _BODIES)
            with (
                SimulatedAdServer(service.url, bodies).asking(),
                BackgroundLoad(Target(service.url, in_columns(bodies)), _RATE, seconds) as load,
            ):
                for share, act in _happenings(service.url, bodies, bundles, other, redis):
                    load.until(share * seconds)
                    act()
            yield Watched(server, start, time.time())


def _happenings(
    url: str, bodies: list[bytes], bundles: Path, other: Path, redis: RedisProcess
) -> list[tuple[float, Callable[[], object]]]:
    """Return actions, each with its time as a share of the run."""
    hurried = [http_request("/v1/score", body, X_Deadline_Ms=str(_BURST_DEADLINE_MS)) for body in bodies]
    burst = partial(closed_loop, Target(url, hurried), _BURST_CLIENTS, _BURST_S, LoadLimits(goes_on=True))
    return [
        (0.20, lambda: publish(other, redis.url)),
        (0.35, lambda: msd_output("rollback", "--redis", redis.url)),
        (0.52, redis.freeze),
        (0.58, redis.thaw),
        (0.70, burst),
        (0.85, lambda: (bundles / "experiment.json").write_text("{}")),
    ]
