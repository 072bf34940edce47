"""The compared services and their requests. Measures nothing."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from lab.bench.delta import delta_visible_ms
from lab.bench.plan import BenchPlan
from lab.bench.redis import redis_server
from lab.reference.bundles import Bundles
from loadtest.generator import Target
from loadtest.http_client import wait_until
from loadtest.processes import Running, Service, end, naive, ours, publish
from loadtest.requests import Form, in_columns, in_objects, some_bodies
from loadtest.stages import is_filled
from loadtest.traffic import Traffic
from msd.contract.bundle import open_bundle

Kind = Literal["naive", "fp32", "best"]
KINDS: tuple[Kind, ...] = ("naive", "fp32", "best")
FORMS: Mapping[Kind, Form] = {"naive": in_objects, "fp32": in_columns, "best": in_columns}


class Contestant(NamedTuple):
    """A kind of service, its number of workers, whether its rows come from Redis, and its deadline if it differs from
    the default.

    Workers are scoring threads of our service, and processes of the naive one.
    """

    kind: Kind
    workers: int
    in_redis: bool
    deadline_ms: int | None = None


class Contestants:
    """Starts and stops services, and holds the requests; everything ends with the block."""

    def __init__(self, bundles: Bundles, plan: BenchPlan, logs: Path) -> None:
        self._bundles, self._plan, self._logs = bundles, plan, logs
        self._stack = ExitStack()
        self._redis: dict[Kind, str] = {}
        self._running: dict[Contestant, Running] = {}
        self._bodies: dict[int, list[bytes]] = {}
        self._requests: dict[tuple[Kind, int], list[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(list(self._running))
        self._stack.close()

    def publish(self) -> None:
        """Publish both bundles: one Redis server each, because a server points to one bundle."""
        bundles: dict[Kind, Path] = {"fp32": self._bundles.fp32, "best": self._bundles.best}
        self._redis = {kind: self._stack.enter_context(redis_server()) for kind in bundles}
        with ThreadPoolExecutor() as threads:
            list(threads.map(publish, bundles.values(), self._redis.values()))
        self._redis["naive"] = self._redis["fp32"]

    def delta_visible_ms(self, kind: Kind, url: str) -> float:
        """Return the milliseconds from a row's change in Redis until it affects a score."""
        bundle = self._bundles.fp32 if kind == "fp32" else self._bundles.best
        bundle_id, body = open_bundle(bundle, rows=False).bundle_id, self._bodies[self._plan.candidates][0]
        return delta_visible_ms(bundle_id, self._redis[kind], url, body)

    def start(self, entries: Iterable[Contestant]) -> dict[Contestant, str]:
        """Start services, and return their addresses once their caches are warm."""
        new = list(entries)
        for entry in new:
            self._running[entry] = Running(self._service(entry), self._logs)
        for entry in new:
            self._running[entry].wait()
        for entry in new:
            if entry.kind != "naive":
                url = self._running[entry].url
                wait_until(f"{url}: its cache is filled", partial(is_filled, url))
        return {entry: self._running[entry].url for entry in new}

    def stop(self, entries: Iterable[Contestant]) -> None:
        """Stop all started services."""
        end([self._running.pop(entry) for entry in entries])

    def targets(self, urls: Mapping[Kind, str], candidates: int, kinds: Iterable[Kind] = KINDS) -> dict[str, Target]:
        """Return the services with their requests, which are the same for all."""
        return {kind: self.target(kind, urls[kind], candidates) for kind in kinds}

    def target(self, kind: Kind, url: str, candidates: int) -> Target:
        """Return one service with requests of a number of candidates."""
        if candidates not in self._bodies:
            traffic = Traffic(self._bundles.fp32, candidates, seed=candidates)
            self._bodies[candidates] = some_bodies(traffic, self._plan.bodies if self._is_usual(candidates) else 50)
        key = (kind, candidates)
        if key not in self._requests:
            self._requests[key] = FORMS[kind](self._bodies[candidates])
        return Target(url, self._requests[key])

    def _is_usual(self, candidates: int) -> bool:
        return candidates == self._plan.candidates

    def _service(self, entry: Contestant) -> Service:
        kind, workers, in_redis, deadline_ms = entry
        name = f"{kind}_{'redis' if in_redis else 'file'}_{workers}{'_deadline' if deadline_ms else ''}"
        redis = self._redis[kind] if in_redis else None
        if kind == "naive":
            return naive(name, self._bundles.fp32, self._bundles.tiled, workers, redis)
        bundle = self._bundles.fp32 if kind == "fp32" else self._bundles.best
        settings = {"deadline_ms": deadline_ms} if deadline_ms else {}
        return ours(name, bundle, workers, redis, **settings)
