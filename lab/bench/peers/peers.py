"""General model servers, and how each starts with the same graph. Measures nothing.

None of them knows users or items: their clients have to send all tensors.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lab.bench.peers.scorer import GRAPH, PORT, THREADS, WORKERS
from lab.bench.peers.wire import in_json, pack
from loadtest.processes import Service
from loadtest.requests import http_request

Tensors = Mapping[str, NDArray[Any]]
_SERVERS = "lab.bench.peers"


@dataclass(frozen=True)
class Peer:
    """packages: what pip installs for it. command: what its environment's Python, or its own program, is given.
    request: tensors as it reads them. scores: of a reply's body."""

    name: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    health: str
    request: Callable[[Tensors], bytes]
    scores: Callable[[bytes], list[float]]
    environment: Mapping[str, str] = field(default_factory=dict)

    def service(self, name: str, programs: Path, graph: Path, workers: int, threads: int) -> Service:
        """Return the server as a service, from the folder of its environment's programs."""
        given = {GRAPH: str(graph.absolute()), WORKERS: str(workers), THREADS: str(threads), PORT: "{port}"}
        program, *rest = self.command
        environment = {**given, **{key: value.format(workers=workers) for key, value in self.environment.items()}}
        return Service(name, (str(programs / program), *rest), environment, self.health)


def _v2_request(tensors: Tensors) -> bytes:
    """The Open Inference Protocol, whose JSON has binary contents as base64."""
    one = {"name": "tensors", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = json.dumps({"inputs": [{**one, "data": [base64.b64encode(pack(tensors)).decode()]}]}).encode()
    return http_request("/v2/models/ranker/infer", body)


def _v2_scores(body: bytes) -> list[float]:
    scores: list[float] = json.loads(body)["outputs"][0]["data"]
    return scores


def _pctr(body: bytes) -> list[float]:
    scores: list[float] = json.loads(body)["pctr"]
    return scores


PEERS = (
    Peer(
        name="mlserver",
        # It gets an event loop in a way that later versions of uvloop do not support.
        packages=("mlserver>=1.6,<2", "uvloop<0.22", "onnxruntime>=1.20,<2"),
        command=("mlserver", "start", str(Path(__file__).with_name("mlserver"))),
        health="/v2/health/ready",
        request=_v2_request,
        scores=_v2_scores,
        environment={
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{{port}}",
            "MLSERVER_GRPC_PORT": "{{port 2}}",
            "MLSERVER_METRICS_PORT": "{{port 3}}",
            "MLSERVER_PARALLEL_WORKERS": "{workers}",
        },
    ),
    Peer(
        name="bentoml",
        packages=("bentoml>=1.4,<2", "onnxruntime>=1.20,<2"),
        command=("bentoml", "serve", f"{_SERVERS}.bentoml_server:Api", "--host", "127.0.0.1", "--port", "{port}"),
        health="/readyz",
        request=lambda tensors: http_request("/score", in_json(tensors)),
        scores=_pctr,
        environment={"BENTOML_DO_NOT_TRACK": "true"},
    ),
    Peer(
        name="litserve",
        packages=("litserve>=0.2,<0.3", "onnxruntime>=1.20,<2"),
        command=("python", "-m", f"{_SERVERS}.litserve_server"),
        health="/health",
        request=lambda tensors: http_request("/predict", in_json(tensors)),
        scores=_pctr,
    ),
    Peer(
        name="ray_serve",
        packages=("ray[serve]>=2.40,<3", "onnxruntime>=1.20,<2"),
        command=("python", "-m", f"{_SERVERS}.ray_server"),
        health="/-/healthz",
        request=lambda tensors: http_request("/score", pack(tensors), Content_Type="application/octet-stream"),
        scores=_pctr,
        environment={"RAY_USAGE_STATS_ENABLED": "0"},
    ),
)
