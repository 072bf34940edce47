"""Compares our service with LitServe, the fastest of four general model servers (decision 28), in turns: the same graph
with as many workers, and the graph as traced.

Ours looks rows up in Redis; the peer knows neither users nor items, so it gets all tensors, ready to run.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.table import Table

from lab.bench.bench import BenchPlan
from lab.bench.contestants import Contestant, Contestants
from lab.bench.rounds import Rounds, closed_rounds, goodput
from lab.bench.tensors import Tensors, encoded
from lab.benchmark.machine import machine_now
from lab.reference.bundles import made_bundles
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection
from loadtest.processes import ProcessError, Service, running
from loadtest.requests import http_request, some_bodies
from loadtest.traffic import Traffic
from model_export.parity import BundleRows
from msd.contract.bundle import RANKER, RANKER_INT8, open_bundle
from msd.report import Heard, table

LITSERVE = (sys.executable, "-m", "lab.bench.litserve_server")
_BODIES = 50
_TOLERANCE = 1e-5
_PATH = "/predict"


def bench_peer(plan: BenchPlan, work: Path, progress: Heard, command: Sequence[str] = LITSERVE) -> dict[str, Any]:
    """Return all figures, ready for JSON. Raises ProcessError if the peer is not installed, does not start, or returns
    other scores."""
    if command is LITSERVE and find_spec("litserve") is None:
        raise ProcessError("LitServe is not installed: pip install 'litserve>=0.2,<0.3'")
    bundles = made_bundles(work / "bundles", plan.makings, progress)
    workers, candidates = max(plan.workers), plan.makings.candidates
    # In bf16 ours runs the fp32 graph on a runtime that the peer does not include.
    lower = bundles.best / RANKER_INT8 if bundles.precision == "int8" else bundles.fp32 / RANKER
    graphs = {"factorised": lower, "as_deployed": bundles.plain}
    tensors = _tensors(bundles.best, candidates)
    found: dict[str, dict[str, Rounds]] = {}
    with Contestants(bundles, work / "logs", plan.bodies) as contestants:
        contestants.publish()
        (url,) = contestants.start([Contestant("ours", workers, in_redis=True)]).values()
        ours = contestants.targets({"ours": url}, candidates)
        for number, (name, graph) in enumerate(graphs.items()):
            progress(f"Against the peer, {name}", number, len(graphs))
            session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
            names = [tensor.name for tensor in session.get_inputs()]
            inputs = [{name: request[name] for name in names} for request in tensors]
            bodies = [encoded(request) for request in inputs]
            with running([_service(f"peer_{name}", command, graph, workers)], work / "logs") as (peer_url,):
                _check(peer_url, bodies[0], session.run(["pctr"], inputs[0])[0])
                peer = Target(peer_url, [http_request(_PATH, body) for body in bodies])
                found[name] = closed_rounds(ours | {"peer": peer}, plan.clients, plan.seconds, plan.rounds)
    return {
        "ratios": {name: round(rounds["ours"].ratio(rounds["peer"], goodput), 4) for name, rounds in found.items()},
        "requests_per_s": {
            name: {service: round(outcomes.median(goodput), 2) for service, outcomes in rounds.items()}
            for name, rounds in found.items()
        },
        "workers": workers,
        "candidates": candidates,
        "precision": bundles.precision,
        "machine": machine_now(),
    }


def peer_tables(figures: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the table: requests per second of both in the same rounds, and their ratio, by graph."""
    workers, count = figures["workers"], figures["candidates"]
    made = table(f"{workers} workers, N = {count}", ("graph", "peer's requests/s", "ours", "ratio"))
    for name, ratio in figures["ratios"].items():
        rates = (f"{figures['requests_per_s'][name][service]:,.0f}" for service in ("peer", "ours"))
        made.add_row(name, *rates, f"{ratio:.2f} ×")
    yield made


def _tensors(bundle: Path, candidates: int) -> list[Tensors]:
    """Return the tensors of some requests."""
    rows = BundleRows(open_bundle(bundle))
    bodies = some_bodies(Traffic(bundle, candidates, seed=candidates), _BODIES)
    return [rows.tensors(rows.golden(json.loads(body))) for body in bodies]


def _service(name: str, command: Sequence[str], graph: Path, workers: int) -> Service:
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    environment = {
        "PEER_GRAPH": str(graph.absolute()),
        "PEER_WORKERS": str(workers),
        "PEER_THREADS": str(threads),
        "PEER_PORT": "{port}",
    }
    return Service(name, command, environment, "/health")


def _check(url: str, body: bytes, expected: NDArray[np.float32]) -> None:
    """Check that the peer returns correct scores."""
    with ServiceConnection(url) as client:
        reply = client.post(_PATH, body)
    reply.check(200, "the peer")
    try:
        worst = float(np.abs(np.array(json.loads(reply.body)["pctr"]) - expected).max())
    except (ValueError, KeyError, TypeError):
        raise ProcessError(f"the peer: not the requested scores: {reply.body[:300].decode(errors='replace')}") from None
    if not worst <= _TOLERANCE:
        raise ProcessError(f"the peer: its scores differ by {worst:.1e} from the graph's own")
