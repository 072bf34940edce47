"""The service benchmark, top to bottom: bundles, services, worker counts, throughput, latency, arrivals, rows.

Everything compared runs in turns on one machine, which the client shares.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.bench.contestants import KINDS, Contestant, Contestants, Kind
from lab.bench.figures import ArrivalFigures, BenchFigures, Best, Store, summarised
from lab.bench.plan import BenchPlan
from lab.bench.redis import redis_server
from lab.bench.round_robin import RoundRobin
from lab.benchmark.machine import machine_now
from lab.benchmark.row_lookup import row_lookup_figures
from lab.reference.bundles import made_bundles
from loadtest.outcome import Outcome, Rounds, goodput
from loadtest.stages import StageSeconds, spent
from msd.report import Heard

OWN: tuple[Kind, ...] = ("fp32", "best")
_HELD_LOAD, _OVERLOAD = 0.7, 2.0
Urls = Mapping[Kind, str]


def bench_services(plan: BenchPlan, work: Path, heard: Heard) -> dict[str, Any]:
    """Return all figures, ready for JSON. `work` keeps bundles and logs. Raises MsdError if a service fails."""
    start = time.perf_counter()
    bundles = made_bundles(work / "bundles", plan.makings, heard)
    rounds_of = RoundRobin(heard, plan.total_seconds)
    with Contestants(bundles, plan, work / "logs") as contestants:
        heard("Starting Redis and the services", 0, math.ceil(plan.total_seconds))
        contestants.publish()
        best, urls = _chosen(rounds_of, contestants, plan)
        redis = _store(rounds_of, contestants, plan, best, urls, plan.rounds)
        capacity = {name: rounds.median(goodput) for name, rounds in redis.throughput.items()}
        strict = {Contestant(kind, best.workers[kind], True, plan.deadline_ms) for kind in OWN}
        strict_urls = {entry.kind: url for entry, url in contestants.start(strict).items()}
        held = {
            kind: _held(rounds_of, contestants, plan, kind, (urls, strict_urls), best.clients[kind]) for kind in OWN
        }
        contestants.stop(strict)
        load = {
            kind: _curve(rounds_of, contestants, plan, kind, urls[kind], capacity[kind]) for kind in ("naive", "best")
        }
        counts = _counts(rounds_of, contestants, plan, urls)
        heard("Waiting for a changed row", *rounds_of.so_far)
        delta = contestants.delta_visible_ms("best", urls["best"])
        contestants.stop(Contestant(kind, best.workers[kind], in_redis=True) for kind in KINDS)
        started = contestants.start(Contestant(kind, best.workers[kind], in_redis=False) for kind in KINDS)
        files = {entry.kind: url for entry, url in started.items()}
        file = _store(rounds_of, contestants, plan, best, files, math.ceil(plan.rounds / 2))
    with redis_server() as server:
        rows = row_lookup_figures(
            work / "rows",
            server,
            lambda doing: heard(f"Rows: {doing}", *rounds_of.so_far),
            plan.many_rows,
            plan.few_rows,
        )
    machine = machine_now()
    found = BenchFigures(
        cores=machine["cores"],
        load=_HELD_LOAD,
        candidates=plan.candidates,
        precision=bundles.precision,
        best=best,
        redis=redis,
        file=file,
        held=held,
        curve=load,
        counts=counts,
        delta_visible_ms=delta,
        rows=rows,
    )
    heard("Done", 1, 1)
    return summarised(found) | {"machine": machine, "seconds": round(time.perf_counter() - start, 1)}


def _chosen(rounds_of: RoundRobin, contestants: Contestants, plan: BenchPlan) -> tuple[Best, Urls]:
    """Find for each service the numbers of workers and clients with the most throughput; stop the others."""
    urls = contestants.start(Contestant(kind, count, in_redis=True) for count in plan.workers for kind in KINDS)
    tried: dict[Kind, dict[tuple[int, int], float]] = {kind: {} for kind in KINDS}
    for clients in plan.clients:
        targets = {str(one): contestants.target(one.kind, url, plan.candidates) for one, url in urls.items()}
        found = rounds_of.closed("Choosing numbers of workers and clients", targets, clients, plan.short, 2)
        for one in urls:
            tried[one.kind][one.workers, clients] = found[str(one)].median(goodput)
    chosen = {kind: max(rates, key=lambda numbers: rates[numbers]) for kind, rates in tried.items()}
    best = Best(
        workers={kind: workers for kind, (workers, _) in chosen.items()},
        clients={kind: clients for kind, (_, clients) in chosen.items()},
        tried=tried,
    )
    contestants.stop(one for one in urls if one.workers != best.workers[one.kind])
    return best, {one.kind: url for one, url in urls.items() if one.workers == best.workers[one.kind]}


def _store(
    rounds_of: RoundRobin, contestants: Contestants, plan: BenchPlan, best: Best, urls: Urls, rounds: int
) -> Store:
    targets = contestants.targets(urls, plan.candidates)
    before = _spent(urls)
    throughput = rounds_of.closed("Measuring throughput", targets, best.clients, plan.seconds, rounds)
    between = _spent(urls)
    latency = rounds_of.closed("Measuring latency", targets, 1, plan.short, rounds)
    after = _spent(urls)
    return Store(
        throughput,
        latency,
        {kind: after[kind].since(between[kind]) for kind in OWN},
        {kind: between[kind].since(before[kind]) for kind in OWN},
    )


def _spent(urls: Urls) -> dict[str, StageSeconds]:
    return {kind: spent(urls[kind]) for kind in OWN}


def _held(
    rounds_of: RoundRobin, contestants: Contestants, plan: BenchPlan, kind: Kind, urls: tuple[Urls, Urls], clients: int
) -> ArrivalFigures:
    """Measure arrivals at 70 % of the current capacity; and at 200 %, with a strict deadline."""
    usual, strict = (contestants.target(kind, one[kind], plan.candidates) for one in urls)
    capacity = rounds_of.closed("Finding capacity", {kind: usual}, clients, plan.seconds, 1)[kind].merged.goodput
    at70 = rounds_of.open("Holding 70 % of capacity", usual, _HELD_LOAD * capacity, plan.open_seconds, seed=1)
    overload = rounds_of.open("Offering 200 %", strict, _OVERLOAD * capacity, plan.overload_seconds, seed=2)
    return ArrivalFigures(capacity, at70, overload)


def _curve(
    rounds_of: RoundRobin, contestants: Contestants, plan: BenchPlan, kind: Kind, url: str, capacity: float
) -> list[tuple[float, Outcome]]:
    """Measure latency by rate."""
    target = contestants.target(kind, url, plan.candidates)
    return [
        (
            load * capacity,
            rounds_of.open("Measuring latency against load", target, load * capacity, plan.seconds, seed=3),
        )
        for load in plan.loads
    ]


def _counts(
    rounds_of: RoundRobin, contestants: Contestants, plan: BenchPlan, urls: Urls
) -> dict[int, dict[str, Rounds]]:
    return {
        count: rounds_of.closed("Measuring by candidates", contestants.targets(urls, count), 1, plan.short, 1)
        for count in plan.counts
    }
