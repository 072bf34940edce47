"""The graph on Ray Serve, over raw bodies; runs in its own environment."""

import os
import time

import ray
from ray import serve
from starlette.requests import Request

from lab.bench.peers.scorer import GRAPH, PORT, THREADS, WORKERS, Scorer
from lab.bench.peers.wire import unpack

NAMES = (GRAPH, THREADS, "PYTHONPATH")


class Api:
    """One replica."""

    def __init__(self) -> None:
        self._scorer = Scorer()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Return scores [N] of the tensors in a body."""
        return {"pctr": self._scorer(unpack(await request.body())).tolist()}


if __name__ == "__main__":
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {name: os.environ[name] for name in NAMES}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ[PORT])})
    options = {"num_replicas": int(os.environ[WORKERS]), "max_ongoing_requests": 100}
    api = serve.deployment(Api, **options, ray_actor_options={"num_cpus": 0})
    serve.run(api.bind(), route_prefix="/score")
    while True:
        time.sleep(60)
