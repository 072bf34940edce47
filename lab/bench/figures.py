"""Converts outcomes to reported figures. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.bench.limits import latency_limits, throughput_limit
from lab.benchmark.row_lookup import RowsFigures
from loadtest.outcome import Outcome, Rounds, goodput, p50_ms
from loadtest.stages import StageSeconds
from msd.contract.precision import Precision

_OWN = ("fp32", "best")


@dataclass(frozen=True)
class Store:
    """All three services over one kind of store: at capacity, with one client, and our services' own time: `spent` with
    one client, `spent_at_capacity`."""

    throughput: Mapping[str, Rounds]
    latency: Mapping[str, Rounds]
    spent: Mapping[str, StageSeconds]
    spent_at_capacity: Mapping[str, StageSeconds]

    def shortest_run_s(self, kind: str) -> float:
        """Return the shortest run time: a core may be slow after idling or when shared."""
        return min(one[kind].mean_ms("run") for one in (self.spent, self.spent_at_capacity)) / 1e3


@dataclass(frozen=True)
class ArrivalFigures:
    """A service under arrivals at 70 % and at 200 % of its capacity, in requests per second, measured just before."""

    capacity: float
    at70: Outcome
    overload: Outcome


@dataclass(frozen=True)
class Best:
    """The best numbers of workers and clients; tried: requests per second by kind and numbers."""

    workers: Mapping[Any, int]
    clients: Mapping[Any, int]
    tried: Mapping[Any, Mapping[tuple[int, int], float]]


@dataclass(frozen=True)
class BenchFigures:
    """All measurements. curve: by kind, rates and outcomes; counts: by candidates; cores: of the machine; `load`: the
    share of capacity in the steady run."""

    cores: int
    load: float
    candidates: int
    precision: Precision
    best: Best
    redis: Store
    file: Store
    held: Mapping[Any, ArrivalFigures]
    curve: Mapping[Any, Sequence[tuple[float, Outcome]]]
    counts: Mapping[int, Mapping[str, Rounds]]
    delta_visible_ms: float
    rows: RowsFigures


def summarised(found: BenchFigures) -> dict[str, Any]:
    """Return the figures, headline first: both services on Redis, ours in the best precision unless said otherwise."""
    best = _held(found, "best")
    return {
        **_of_store(found.redis),
        **best,
        **{f"{name}_fp32": value for name, value in _held(found, "fp32").items()},
        **{name: getattr(found.rows, name) for name in ("lookup_ratio", "start_s_10m", "lookup_ratio_10m")},
        "delta_visible_ms": found.delta_visible_ms,
        "limits": _limits(found),
        "precision": found.precision,
        "candidates": found.candidates,
        "workers": dict(found.best.workers),
        "clients": dict(found.best.clients),
        "requests_per_second_by_workers_and_clients": {
            kind: {f"{workers}, {clients}": round(rate, 1) for (workers, clients), rate in rates.items()}
            for kind, rates in found.best.tried.items()
        },
        "file": _of_store(found.file),
        "rows": found.rows._asdict(),
        "absolute": {"redis": _absolute(found.redis), "file": _absolute(found.file)},
        "open_loop": {kind: _absolute_held(found.held[kind]) for kind in _OWN},
        "stages_ms": {kind: _stages(found.redis, kind) for kind in _OWN},
        "load_curve": {
            kind: [{"rate": round(rate, 1), **outcome.as_json()} for rate, outcome in points]
            for kind, points in found.curve.items()
        },
        "p50_ms_by_candidates": {
            kind: {str(count): _round(one[kind].median(p50_ms)) for count, one in found.counts.items()}
            for kind in next(iter(found.counts.values()))
        },
    }


def _of_store(store: Store) -> dict[str, float]:
    told: dict[str, float] = {}
    for kind in _OWN:
        told[f"throughput_ratio_{kind}"] = store.throughput[kind].ratio(store.throughput["naive"], goodput)
        told[f"p50_ratio_{kind}"] = store.latency["naive"].ratio(store.latency[kind], p50_ms)
        told[f"overhead_share_{kind}"] = store.spent[kind].overhead_share
        mean_ms = store.latency[kind].merged.latency.mean_ms
        told[f"overhead_share_client_{kind}"] = 1 - store.spent[kind].mean_ms("run") / mean_ms
    return {name: _round(value) for name, value in told.items()}


def _held(found: BenchFigures, kind: str) -> dict[str, float]:
    held, rest = found.held[kind], found.redis.latency[kind].median(p50_ms)
    told = {
        "openloop70_p99_over_p50": held.at70.latency.percentile_ms(99) / rest,
        "openloop70_p999_over_p50": held.at70.latency.percentile_ms(99.9) / rest,
        "overload_goodput": held.overload.goodput / held.capacity,
        "overload_p99_ms": held.overload.latency.percentile_ms(99),
    }
    return {name: _round(value) for name, value in told.items()}


def _limits(found: BenchFigures) -> dict[str, float]:
    """Return upper bounds of figures if only the model ran; for times, lower bounds."""
    store, workers = found.redis, found.best.workers["best"]
    naive = store.throughput["naive"].median(goodput)
    told = {
        f"throughput_ratio_{kind}": throughput_limit(found.cores, store.shortest_run_s(kind), naive) for kind in _OWN
    }
    waits = latency_limits(workers, found.load, (99, 99.9))
    told |= dict(zip(("openloop70_p99_over_p50", "openloop70_p999_over_p50"), waits, strict=True))
    return {name: _round(value) for name, value in told.items()}


def _stages(store: Store, kind: str) -> dict[str, float]:
    return store.spent[kind].as_json(store.latency[kind].merged.latency.mean_ms)


def _absolute(store: Store) -> dict[str, Any]:
    """Return figures of all rounds, and the medians of rounds from which ratios are made."""
    return {
        kind: {
            "at_capacity": {**rounds.merged.as_json(), "median_goodput": _round(rounds.median(goodput))},
            "one_client": {
                **store.latency[kind].merged.as_json(),
                "median_p50_ms": _round(store.latency[kind].median(p50_ms)),
            },
        }
        for kind, rounds in store.throughput.items()
    }


def _absolute_held(held: ArrivalFigures) -> dict[str, Any]:
    return {
        "capacity": _round(held.capacity),
        "at_70_percent": held.at70.as_json(),
        "at_200_percent": held.overload.as_json(),
    }


def _round(value: float) -> float:
    return round(value, 4)
