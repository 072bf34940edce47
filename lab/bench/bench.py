"""The service benchmark, top to bottom: bundles, services, worker counts, throughput, latency, arrivals, rows.

Everything compared runs in turns on one machine, which the client shares.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.bench.contestants import KINDS, Contestant, Contestants, Kind, Urls
from lab.bench.figures import StoreRounds, arrival_figures, limits, store_figures
from lab.bench.rounds import closed_rounds, goodput, p50_ms, poisson_run
from lab.benchmark.machine import machine_now
from lab.reference.bundles import Makings, made_bundles, own_bundles
from loadtest.stages import spent
from msd.report import Heard

_HELD_LOAD, _OVERLOAD = 0.7, 2.0
_STEPS = 8


@dataclass(frozen=True)
class BenchPlan:
    """The length of each part.

    A round is `seconds` of one service. Throughput has `rounds` of each service, in turns, with `clients` and the best
    number of `workers`. `loads` are shares of its own capacity; 70 % is held for `open_seconds`, and 200 % has
    `deadline_ms`. `own`: the bundle and the folder of a ranker of MSD's own, in place of the reference model.
    """

    makings: Makings = field(default_factory=Makings)
    seconds: float = 2.0
    rounds: int = 5
    open_seconds: float = 15.0
    workers: tuple[int, ...] = (1, 2)
    clients: int = 8
    counts: tuple[int, ...] = (20, 50, 200, 500, 1_000)
    loads: tuple[float, ...] = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)
    bodies: int = 1_000
    deadline_ms: int = 50
    own: tuple[Path, Path] | None = None

    @property
    def short(self) -> float:
        """Seconds of a round with one client."""
        return self.seconds / 2


def bench_services(plan: BenchPlan, work: Path, progress: Heard) -> dict[str, Any]:
    """Return all figures, ready for JSON. `work` keeps bundles and logs. Raises MsdError if a service fails."""
    start = time.perf_counter()
    bundles = (
        own_bundles(*plan.own, work / "own") if plan.own else made_bundles(work / "bundles", plan.makings, progress)
    )
    candidates = plan.makings.candidates
    with Contestants(bundles, work / "logs", plan.bodies) as contestants:
        progress("Choosing numbers of workers", 0, _STEPS)
        contestants.publish()
        workers, urls = _chosen(contestants, plan)
        targets = contestants.targets(urls, candidates)
        progress("Rows from Redis", 1, _STEPS)
        redis = _store(contestants, plan, urls, plan.rounds)
        progress("Holding 70 % of capacity, offering 200 %", 2, _STEPS)
        arrivals = _arrivals(contestants, plan, workers["ours"], urls["ours"], redis)
        progress("Latency against load", 3, _STEPS)
        curve: dict[str, list[dict[str, Any]]] = {"naive": [], "ours": []}
        for kind, points in curve.items():
            for load in plan.loads:
                rate = load * redis.throughput[kind].median(goodput)
                points.append({"rate": round(rate, 1)} | poisson_run(targets[kind], rate, plan.seconds, 3).as_json())
        progress("Latency by candidates", 4, _STEPS)
        counts = {count: closed_rounds(contestants.targets(urls, count), 1, plan.short, 1) for count in plan.counts}
        progress("Waiting for a changed row", 5, _STEPS)
        delta = contestants.delta_visible_ms(targets["ours"])
        contestants.stop(Contestant(kind, workers[kind], in_redis=True) for kind in KINDS)
        progress("Rows in memory or the bundle's file", 6, _STEPS)
        files = contestants.start(Contestant(kind, workers[kind], in_redis=False) for kind in KINDS)
        file = _store(contestants, plan, {entry.kind: url for entry, url in files.items()}, math.ceil(plan.rounds / 2))
    machine = machine_now()
    return {
        "redis": store_figures(redis),
        "file": store_figures(file),
        "arrivals": arrivals,
        "limits": limits(redis, machine["cores"], workers["ours"], _HELD_LOAD),
        "delta_visible_ms": delta,
        "load_curve": curve,
        "p50_ms_by_candidates": {
            kind: {str(count): round(found[kind].median(p50_ms), 4) for count, found in counts.items()}
            for kind in KINDS
        },
        "precision": bundles.precision,
        "candidates": candidates,
        "workers": workers,
        "machine": machine,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _chosen(contestants: Contestants, plan: BenchPlan) -> tuple[dict[Kind, int], Urls]:
    """Find the number of workers with the most throughput for each service; stop the others."""
    started = contestants.start(Contestant(kind, count, in_redis=True) for count in plan.workers for kind in KINDS)
    candidates = plan.makings.candidates
    targets = {entry: contestants.targets({entry.kind: url}, candidates)[entry.kind] for entry, url in started.items()}
    found = closed_rounds({str(entry): target for entry, target in targets.items()}, plan.clients, plan.short, 2)
    rate: Callable[[Contestant], float] = lambda entry: found[str(entry)].median(goodput)  # noqa: E731
    best = {kind: max((entry for entry in started if entry.kind == kind), key=rate) for kind in KINDS}
    contestants.stop(entry for entry in started if entry not in best.values())
    return {kind: entry.workers for kind, entry in best.items()}, {kind: started[entry] for kind, entry in best.items()}


def _store(contestants: Contestants, plan: BenchPlan, urls: Urls, rounds: int) -> StoreRounds:
    targets = contestants.targets(urls, plan.makings.candidates)
    moments = [spent(urls["ours"])]
    throughput = closed_rounds(targets, plan.clients, plan.seconds, rounds)
    moments.append(spent(urls["ours"]))
    latency = closed_rounds(targets, 1, plan.short, rounds)
    moments.append(spent(urls["ours"]))
    return StoreRounds(throughput, latency, moments[1].since(moments[0]), moments[2].since(moments[1]))


def _arrivals(contestants: Contestants, plan: BenchPlan, workers: int, url: str, redis: StoreRounds) -> dict[str, Any]:
    """Measure arrivals at 70 % of the current capacity; and at 200 %, with a strict deadline."""
    entry = Contestant("ours", workers, in_redis=True, deadline_ms=plan.deadline_ms)
    (strict_url,) = contestants.start([entry]).values()
    usual, strict = (contestants.targets({"ours": one}, plan.makings.candidates)["ours"] for one in (url, strict_url))
    capacity = closed_rounds({"ours": usual}, plan.clients, plan.seconds, 1)["ours"].median(goodput)
    at70 = poisson_run(usual, _HELD_LOAD * capacity, plan.open_seconds, 1)
    overload = poisson_run(strict, _OVERLOAD * capacity, 2 * plan.seconds, 2)
    contestants.stop([entry])
    return arrival_figures(capacity, at70, overload, redis.latency["ours"].median(p50_ms))
