"""One load session, top to bottom: at rest, capacity, latency against load, bursts."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from loadtest.generator import LoadLimits, Target, closed_loop, open_loop
from loadtest.http_client import ClientError, ServiceConnection, measure_latency
from loadtest.requests import SCORE, http_request, some_bodies
from loadtest.stages import spent
from loadtest.traffic import Mix, Times, Traffic, bursts, mix_text, poisson
from msd.report import Heard

# Overload is part of the session: unanswered requests are counted.
_LIMITS = LoadLimits(goes_on=True)
_CLIENTS = 8  # in a closed loop, to find the capacity
_LOADS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)  # shares of it that are offered as Poisson arrivals
_BURST_LOAD = 0.5  # share of it that is offered in bursts
_BODIES = 1_000
_AT_REST = 300
_FORMAT = 1


@dataclass(frozen=True)
class LoadPlan:
    """The traffic, and the duration of each part.

    mix: shares of numbers of candidates; cold: the share of unknown candidates; deadline_ms: the requests' deadline, if
    any.
    """

    mix: Mix
    cold: float = 0.0
    deadline_ms: int | None = None
    seconds: float = 5.0


def load_session(url: str, bundle: Path, plan: LoadPlan, progress: Heard) -> dict[str, Any]:
    """Return all figures, ready for JSON. Raises MsdError if the service is unreachable or does not score."""
    start, steps = time.perf_counter(), 4 + len(_LOADS)
    bodies = some_bodies(Traffic(bundle, plan.mix, 0, plan.cold), _BODIES)
    headers = {} if plan.deadline_ms is None else {"X_Deadline_Ms": str(plan.deadline_ms)}
    target = Target(url, [http_request(SCORE, body, **headers) for body in bodies])
    progress("At rest", 1, steps)
    rest = _at_rest(url, bodies)
    progress("Capacity", 2, steps)
    found = closed_loop(target, _CLIENTS, plan.seconds, _LIMITS)
    # Replies with text-only ads are degraded, and count as scored.
    capacity = found.statuses[200] / found.seconds
    if not capacity:
        raise ClientError(f"{url}: scored nothing of what {_CLIENTS} clients asked")
    curve = []
    for place, share in enumerate(_LOADS):
        progress(f"Poisson arrivals at {share:.0%} of capacity", 3 + place, steps)
        times = poisson(share * capacity, plan.seconds, place)
        curve.append({"load": share, "rate": round(share * capacity, 1)} | _open(target, times, plan.seconds))
    progress(f"Bursts at {_BURST_LOAD:.0%}", steps - 1, steps)
    burst = _open(target, bursts(_BURST_LOAD * capacity, plan.seconds), plan.seconds)
    progress("Done", steps, steps)
    return {
        "format": _FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": url,
        "model": _model(url),
        "traffic": {"candidates": mix_text(plan.mix), "cold": plan.cold, "deadline_ms": plan.deadline_ms},
        "rest": rest,
        "capacity": round(capacity, 1),
        "curve": curve,
        "bursts": {"rate": round(_BURST_LOAD * capacity, 1)} | burst,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _at_rest(url: str, bodies: list[bytes]) -> dict[str, Any]:
    """Measure one client in a closed loop, and the service's stage times."""
    some = list(islice(cycle(bodies), _AT_REST))
    measure_latency(url, some[: _AT_REST // 10])
    before = spent(url)
    latency = measure_latency(url, some)
    return {
        "p50_ms": round(latency.percentile_ms(50), 3),
        "p99_ms": round(latency.percentile_ms(99), 3),
        "stages_ms": spent(url).since(before).as_json(latency.mean_ms),
    }


def _open(target: Target, times: Times, seconds: float) -> dict[str, Any]:
    return open_loop(target, times, seconds, _LIMITS).as_json()


def _model(url: str) -> dict[str, Any]:
    with ServiceConnection(url) as client:
        found: dict[str, Any] = json.loads(client.get("/v1/model").body)
    runtime = found["runtime"]
    return {
        "model_version": found["model_version"],
        "precision": runtime["precision"],
        "runtime": runtime["name"],
        "store": found["store"],
    }
