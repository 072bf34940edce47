"""One load session, top to bottom: at rest, capacity, latency against load, bursts, Locust's users."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from loadtest.arrivals import Times, bursts, poisson
from loadtest.durations import Durations
from loadtest.generator import LoadLimits, Target, closed_loop, open_loop
from loadtest.http_client import ClientError, ServiceConnection
from loadtest.latency import measure_latency
from loadtest.requests import http_request, some_bodies
from loadtest.stages import spent
from loadtest.traffic import Mix, Traffic, mix_text
from msd.report import Heard

# Overload is part of the session: unanswered requests are counted.
_LIMITS = LoadLimits(goes_on=True)
_LOCUST_WITHIN_S = 60.0
_FORMAT = 1


@dataclass(frozen=True)
class LoadPlan:
    """The traffic, and the parts of the session.

    mix: shares of numbers of candidates; cold: the share of unknown candidates; deadline_ms: the requests' deadline, if
    any. `clients` in a closed loop find the capacity; `loads` are shares of it, offered as Poisson arrivals, and
    `burst_load` in bursts. `users` are Locust's, with ten requests per second each.
    """

    mix: Mix
    cold: float = 0.0
    deadline_ms: int | None = None
    seconds: float = 5.0
    clients: int = 8
    loads: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
    burst_load: float = 0.5
    users: int = 10
    bodies: int = 1_000
    at_rest: int = 300


def load_session(url: str, bundle: Path, plan: LoadPlan, heard: Heard) -> dict[str, Any]:
    """Return all figures, ready for JSON. Raises MsdError if the service is unreachable or does not score."""
    start, steps = time.perf_counter(), 5 + len(plan.loads)
    bodies = some_bodies(Traffic(bundle, plan.mix, 0, plan.cold), plan.bodies)
    said = {} if plan.deadline_ms is None else {"X_Deadline_Ms": str(plan.deadline_ms)}
    target = Target(url, [http_request("/v1/score", body, **said) for body in bodies])
    heard("At rest", 1, steps)
    rest = _at_rest(url, bodies, plan)
    heard("Capacity", 2, steps)
    found = closed_loop(target, plan.clients, plan.seconds, _LIMITS)
    # Replies with text-only ads are degraded, and count as scored.
    capacity = found.statuses[200] / found.seconds
    if not capacity:
        raise ClientError(f"{url}: scored nothing of what {plan.clients} clients asked")
    curve = []
    for place, share in enumerate(plan.loads):
        heard(f"Poisson arrivals at {share:.0%} of capacity", 3 + place, steps)
        times = poisson(share * capacity, plan.seconds, place)
        curve.append({"load": share, "rate": round(share * capacity, 1)} | _open(target, times, plan.seconds))
    heard(f"Bursts at {plan.burst_load:.0%}", steps - 2, steps)
    burst = _open(target, bursts(plan.burst_load * capacity, plan.seconds), plan.seconds)
    heard("Locust's users", steps - 1, steps)
    users = _locust(url, bundle, plan)
    heard("Done", steps, steps)
    return {
        "format": _FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": url,
        "model": _model(url),
        "traffic": {"candidates": mix_text(plan.mix), "cold": plan.cold, "deadline_ms": plan.deadline_ms},
        "rest": rest,
        "capacity": round(capacity, 1),
        "curve": curve,
        "bursts": {"rate": round(plan.burst_load * capacity, 1)} | burst,
        "locust": users,
        "seconds": round(time.perf_counter() - start, 1),
    }


def _at_rest(url: str, bodies: list[bytes], plan: LoadPlan) -> dict[str, Any]:
    """Measure one client in a closed loop, and the service's stage times."""
    some = list(islice(cycle(bodies), plan.at_rest))
    measure_latency(url, some[: plan.at_rest // 10], 0, lambda number: None)
    before = spent(url)
    latency = measure_latency(url, some, 0, lambda number: None)
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


def _locust(url: str, bundle: Path, plan: LoadPlan) -> dict[str, Any] | None:
    """Return Locust's report; None if it is not installed."""
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).parents[1] / "locustfile.py"), "--headless"]
    times = ["--run-time", f"{max(1, round(plan.seconds))}s", "--stop-timeout", "5", "--spawn-rate", str(plan.users)]
    asked = {
        "LOADTEST_BUNDLE": str(bundle.absolute()),
        "LOADTEST_CANDIDATES": mix_text(plan.mix),
        "LOADTEST_COLD": str(plan.cold),
        "LOADTEST_DEADLINE_MS": str(plan.deadline_ms or 0),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [*command, "--host", url, "--users", str(plan.users), *times, "--json"],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
        timeout=plan.seconds + _LOCUST_WITHIN_S,
    )
    if "No module named locust" in done.stderr:
        return None
    try:
        (entry,) = json.loads(done.stdout)
    except ValueError:
        raise ClientError(f"Locust failed: {done.stderr.strip()[-500:]}") from None
    latency = Durations()
    for milliseconds, count in entry["response_times"].items():
        for _ in range(count):
            latency.record(float(milliseconds) / 1e3)
    return {
        "users": plan.users,
        "requests": entry["num_requests"],
        "failures": entry["num_failures"],
        "requests_per_s": round(
            entry["num_requests"] / max(1.0, entry["last_request_timestamp"] - entry["start_time"]), 1
        ),
        "p50_ms": round(latency.percentile_ms(50), 1),
        "p99_ms": round(latency.percentile_ms(99), 1),
    }
