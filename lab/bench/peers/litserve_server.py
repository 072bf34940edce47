"""The graph on LitServe, over JSON; runs in its own environment."""

import os

import litserve
import numpy as np
from numpy.typing import NDArray

from lab.bench.peers.scorer import PORT, WORKERS, Scorer
from lab.bench.peers.wire import Tensors, from_json


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One request at a time in each worker."""

    def setup(self, device: str) -> None:
        """Called in each worker."""
        self._scorer = Scorer()

    def decode_request(self, request: dict[str, str]) -> Tensors:
        """Tensors of a body."""
        return from_json(request["tensors"])

    def predict(self, tensors: Tensors) -> NDArray[np.float32]:
        """Scores [N]."""
        return self._scorer(tensors)

    def encode_response(self, scores: NDArray[np.float32]) -> dict[str, list[float]]:
        """As JSON."""
        return {"pctr": scores.tolist()}


if __name__ == "__main__":
    workers = int(os.environ[WORKERS])
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=workers)
    server.run(
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        num_api_servers=workers,
        log_level="warning",
        generate_client_file=False,
    )
