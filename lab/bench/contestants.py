"""The compared services and their requests. Measures nothing but how soon a changed row is used."""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from redis import Redis

from lab.bench.redis import redis_server
from lab.naive.service import in_objects, naive
from lab.reference.bundles import Bundles
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection
from loadtest.processes import ProcessError, Running, Service, end, ours, publish
from loadtest.requests import in_columns, some_bodies
from loadtest.traffic import Traffic
from msd.contract.bundle import open_bundle
from service.redis.keys import key_prefix

Kind = Literal["naive", "ours"]
KINDS: tuple[Kind, ...] = ("naive", "ours")
Urls = Mapping[Kind, str]
_DELTA_WITHIN_S = 30.0
_MOVED = 0.5


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

    def __init__(self, bundles: Bundles, logs: Path, bodies: int) -> None:
        self._bundles, self._logs, self._count = bundles, logs, bodies
        self._stack = ExitStack()
        self._redis = ""
        self._running: dict[Contestant, Running] = {}
        self._bodies: dict[int, list[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(list(self._running))
        self._stack.close()

    def publish(self) -> None:
        """Publish the rows to a Redis server."""
        self._redis = self._stack.enter_context(redis_server())
        publish(self._bundles.best, self._redis)

    def start(self, entries: Iterable[Contestant]) -> dict[Contestant, str]:
        """Start services, and return their addresses once they are ready."""
        new = {entry: Running(self._service(entry), self._logs) for entry in entries}
        self._running |= new
        for running in new.values():
            running.wait()
        return {entry: running.url for entry, running in new.items()}

    def stop(self, entries: Iterable[Contestant]) -> None:
        """Stop started services."""
        end([self._running.pop(entry) for entry in entries])

    def targets(self, urls: Urls, candidates: int) -> dict[str, Target]:
        """Return the services with requests of a number of candidates, which are the same for all."""
        if candidates not in self._bodies:
            self._bodies[candidates] = some_bodies(Traffic(self._bundles.best, candidates, candidates), self._count)
        bodies = self._bodies[candidates]
        return {
            kind: Target(url, (in_objects if kind == "naive" else in_columns)(bodies)) for kind, url in urls.items()
        }

    def delta_visible_ms(self, target: Target) -> float:
        """Return the milliseconds from a row's change in Redis, as `msd publish --delta` writes it, until it affects a
        score: an item gets another's row.

        Raises ProcessError if the change does not arrive.
        """
        prefix = key_prefix(open_bundle(self._bundles.best, rows=False).bundle_id, "item")
        with ServiceConnection(target.url) as client, Redis.from_url(self._redis) as rows:
            body = target.bodies[0]
            request, scores = json.loads(body), client.scores(body)
            lowest, highest = (request["candidates"]["id"][int(place(scores))] for place in (np.argmin, np.argmax))
            single = json.dumps({**request, "candidates": {"id": [lowest]}}).encode()
            client.scores(single)
            row = rows.get(prefix + highest)
            if row is None:
                raise ProcessError(f"{self._redis}: has no row of {highest}")
            rows.set(prefix + lowest, row)
            changed = time.monotonic()
            while abs(client.scores(single)[0] - min(scores)) <= _MOVED * (max(scores) - min(scores)):
                if time.monotonic() > changed + _DELTA_WITHIN_S:
                    raise ProcessError(f"a changed row was not scored with within {_DELTA_WITHIN_S:g} s")
            return round(1e3 * (time.monotonic() - changed), 1)

    def _service(self, entry: Contestant) -> Service:
        kind, workers, in_redis, deadline_ms = entry
        name = f"{kind}_{'redis' if in_redis else 'file'}_{workers}{'_deadline' if deadline_ms else ''}"
        redis = self._redis if in_redis else None
        if kind == "naive":
            return naive(name, self._bundles.best, self._bundles.tiled, workers, redis)
        settings = {"deadline_ms": deadline_ms} if deadline_ms else {}
        return ours(name, self._bundles.best, workers, redis, **settings)
