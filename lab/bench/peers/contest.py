"""Compares our service with general model servers, in turns: the same graph with as many workers, and the graph as
traced.

Ours looks rows up in Redis; a peer gets all tensors, ready to run.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lab.bench.contestants import Contestant, Contestants, Kind
from lab.bench.peers.install import installed, version_of
from lab.bench.peers.peers import PEERS, Peer, Tensors
from lab.bench.plan import BenchPlan
from lab.bench.round_robin import RoundRobin
from lab.benchmark.machine import machine_now
from lab.reference.bundles import Bundles, made_bundles
from loadtest.generator import Target
from loadtest.http_client import ServiceConnection
from loadtest.outcome import Rounds, goodput
from loadtest.processes import ProcessError, running
from loadtest.requests import headers_of, some_bodies
from loadtest.traffic import Traffic
from model_export.parity import BundleRows
from msd.contract.bundle import RANKER, open_bundle
from msd.contract.errors import MsdError
from msd.report import Heard

_BODIES = 50
_TOLERANCE = 1e-5


class Ways(StrEnum):
    """The graph as the service runs it, in the best precision of a peer, and as traced."""

    FP32 = "fp32"
    BEST = "best"
    AS_DEPLOYED = "as_deployed"


@dataclass(frozen=True)
class _Way:
    """A peer's graph, and our service to compare with."""

    name: Ways
    graph: Path
    ours: Kind


def bench_peers(plan: BenchPlan, work: Path, heard: Heard, peers: Sequence[Peer] = PEERS) -> dict[str, Any]:
    """Return all figures, ready for JSON; a peer that cannot be installed or started is left out with its reason."""
    bundles = made_bundles(work / "bundles", plan.makings, heard)
    ways, workers = _ways(bundles), max(plan.workers)
    rounds_of = RoundRobin(heard, len(peers) * len(ways) * 2 * plan.rounds * plan.seconds)
    asked = _requests(bundles.fp32, plan.candidates)
    found: dict[str, dict[str, dict[str, Rounds]]] = {}
    versions: dict[str, str] = {}
    left_out: dict[str, str] = {}
    with Contestants(bundles, plan, work / "logs") as contestants:
        contestants.publish()
        entries = contestants.start(Contestant(kind, workers, in_redis=True) for kind in ("fp32", "best"))
        ours = {entry.kind: contestants.target(entry.kind, url, plan.candidates) for entry, url in entries.items()}
        for peer in peers:
            heard(f"Installing {peer.name}", *rounds_of.so_far)
            try:
                programs = installed(peer, work / "peers" / peer.name)
                versions[peer.name] = version_of(peer, programs)
                found[peer.name] = {
                    way.name: _against(rounds_of, plan, peer, programs, way, ours[way.ours], asked, work / "logs")
                    for way in ways
                }
            except MsdError as error:
                left_out[peer.name] = str(error)
    return _summarised(found) | {
        "workers": workers,
        "candidates": plan.candidates,
        "precision": bundles.precision,
        "peer_versions": versions,
        "left_out": left_out,
        "machine": machine_now(),
    }


def _ways(bundles: Bundles) -> list[_Way]:
    """Return the compared graphs. bf16 runs the fp32 graph on a runtime that peers do not include."""
    lower = bundles.best if bundles.precision == "int8" else bundles.fp32
    return [
        _Way(Ways.FP32, bundles.fp32 / RANKER, "fp32"),
        _Way(Ways.BEST, lower / RANKER, "best"),
        _Way(Ways.AS_DEPLOYED, bundles.plain, "best"),
    ]


def _requests(bundle: Path, candidates: int) -> list[Tensors]:
    """Return the tensors of some requests."""
    rows = BundleRows(open_bundle(bundle))
    bodies = some_bodies(Traffic(bundle, candidates, seed=candidates), _BODIES)
    return [rows.tensors(rows.golden(json.loads(body))) for body in bodies]


def _against(
    rounds_of: RoundRobin,
    plan: BenchPlan,
    peer: Peer,
    programs: Path,
    way: _Way,
    ours: Target,
    asked: Sequence[Tensors],
    logs: Path,
) -> dict[str, Rounds]:
    """Measure ours and the peer at capacity, in turns. Raises ProcessError if the peer does not start, or returns other
    scores."""
    session = onnxruntime.InferenceSession(str(way.graph), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    tensors = [{name: one[name] for name in names} for one in asked]
    requests = [peer.request(one) for one in tensors]
    workers = max(plan.workers)
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    service = peer.service(f"{peer.name}_{way.name}", programs, way.graph, workers, threads)
    with running([service], logs) as (url,):
        _check(peer, url, requests[0], session.run(["pctr"], tensors[0])[0])
        targets = {"ours": ours, "peer": Target(url, requests)}
        return rounds_of.closed(
            f"Against {peer.name}, {way.name}", targets, max(plan.clients), plan.seconds, plan.rounds
        )


def _check(peer: Peer, url: str, request: bytes, expected: NDArray[np.float32]) -> None:
    """Check that the peer returns correct scores."""
    head, _, body = request.partition(b"\r\n\r\n")
    with ServiceConnection(url) as client:
        reply = client.post(head.split()[1].decode(), body, headers_of(request))
    told = reply.body[:300].decode(errors="replace")
    if reply.status != 200:
        raise ProcessError(f"{peer.name}: answered {reply.status}: {told}")
    try:
        worst = float(np.abs(np.array(peer.scores(reply.body)) - expected).max())
    except (ValueError, KeyError, IndexError, TypeError):
        raise ProcessError(f"{peer.name}: not the requested scores: {told}") from None
    if not worst <= _TOLERANCE:
        raise ProcessError(f"{peer.name}: its scores differ by {worst:.1e} from the graph's own")


def _summarised(found: Mapping[str, Mapping[str, Mapping[str, Rounds]]]) -> dict[str, Any]:
    ratios = {
        f"peer_ratio_{way.value}": {
            peer: round(one[way]["ours"].ratio(one[way]["peer"], goodput), 4) for peer, one in found.items()
        }
        for way in Ways
    }
    absolute = {
        peer: {way: {name: one.merged.as_json() for name, one in both.items()} for way, both in ways.items()}
        for peer, ways in found.items()
    }
    return {**ratios, "absolute": absolute}
