"""From outcomes to the figures that are told. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.bench.stages import Spent
from loadtest.outcome import Outcome
from loadtest.rows_benchmark import RowsFigures
from msd.contract.precision import Precision

Outcomes = Mapping[str, Outcome]
_OWN = ("fp32", "best")


@dataclass(frozen=True)
class Store:
    """All three services over one kind of store: at capacity, with one client, and our services' own time meanwhile."""

    throughput: Outcomes
    latency: Outcomes
    spent: Mapping[str, Spent]


@dataclass(frozen=True)
class Held:
    """A service under arrivals at 70 % of its capacity, and at 200 %."""

    at70: Outcome
    overload: Outcome


@dataclass(frozen=True)
class Found:
    """All that was measured. workers: the number chosen by kind; tried: requests a second by kind and number; curve: by
    kind, rates and what came of them; counts: by candidates."""

    candidates: int
    precision: Precision
    workers: Mapping[Any, int]
    tried: Mapping[Any, Mapping[int, float]]
    redis: Store
    file: Store
    held: Mapping[Any, Held]
    curve: Mapping[Any, Sequence[tuple[float, Outcome]]]
    counts: Mapping[int, Outcomes]
    delta_visible_ms: float
    rows: RowsFigures


def summarised(found: Found) -> dict[str, Any]:
    """The keys of the headline first: both services on Redis, ours in the best precision where nothing else is said."""
    best = _held(found, "best")
    return {
        **_of_store(found.redis),
        **best,
        **{f"{name}_fp32": value for name, value in _held(found, "fp32").items()},
        **{name: getattr(found.rows, name) for name in ("lookup_ratio", "start_s_10m", "lookup_ratio_10m")},
        "delta_visible_ms": found.delta_visible_ms,
        "precision": found.precision,
        "candidates": found.candidates,
        "workers": dict(found.workers),
        "requests_per_second_by_workers": {
            kind: {str(count): round(rate, 1) for count, rate in by_count.items()}
            for kind, by_count in found.tried.items()
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
            kind: {str(count): _round(one[kind].latency.percentile_ms(50)) for count, one in found.counts.items()}
            for kind in next(iter(found.counts.values()))
        },
    }


def _of_store(store: Store) -> dict[str, float]:
    rates = {kind: outcome.goodput for kind, outcome in store.throughput.items()}
    p50 = {kind: outcome.latency.percentile_ms(50) for kind, outcome in store.latency.items()}
    told: dict[str, float] = {}
    for kind in _OWN:
        told[f"throughput_ratio_{kind}"] = rates[kind] / rates["naive"]
        told[f"p50_ratio_{kind}"] = p50["naive"] / p50[kind]
        told[f"overhead_share_{kind}"] = store.spent[kind].overhead_share
        told[f"overhead_share_client_{kind}"] = (
            1 - store.spent[kind].mean_ms("run") / store.latency[kind].latency.mean_ms
        )
    return {name: _round(value) for name, value in told.items()}


def _held(found: Found, kind: str) -> dict[str, float]:
    held, rest = found.held[kind], found.redis.latency[kind].latency.percentile_ms(50)
    told = {
        "openloop70_p99_over_p50": held.at70.latency.percentile_ms(99) / rest,
        "openloop70_p999_over_p50": held.at70.latency.percentile_ms(99.9) / rest,
        "overload_goodput": held.overload.goodput / found.redis.throughput[kind].goodput,
        "overload_p99_ms": held.overload.latency.percentile_ms(99),
    }
    return {name: _round(value) for name, value in told.items()}


def _stages(store: Store, kind: str) -> dict[str, float]:
    return store.spent[kind].as_json(store.latency[kind].latency.mean_ms)


def _absolute(store: Store) -> dict[str, Any]:
    return {
        kind: {"at_capacity": store.throughput[kind].as_json(), "one_client": store.latency[kind].as_json()}
        for kind in store.throughput
    }


def _absolute_held(held: Held) -> dict[str, Any]:
    return {"at_70_percent": held.at70.as_json(), "at_200_percent": held.overload.as_json()}


def _round(value: float) -> float:
    return round(value, 4)
