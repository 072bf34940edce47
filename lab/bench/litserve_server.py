"""The graph on LitServe, over JSON with base64 contents."""

import os
from typing import Any

import litserve
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lab.bench.tensors import Tensors, decoded


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One request at a time in each worker."""

    def setup(self, device: str) -> None:
        """Open the graph; called in each worker."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        graph = os.environ["PEER_GRAPH"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any]) -> Tensors:
        """Return the tensors of a body."""
        return decoded(request)

    def predict(self, tensors: Tensors) -> NDArray[np.float32]:
        """Return scores [N]."""
        scores: NDArray[np.float32] = self._session.run(["pctr"], tensors)[0]
        return scores

    def encode_response(self, scores: NDArray[np.float32]) -> dict[str, list[float]]:
        """Return the body of a reply."""
        return {"pctr": scores.tolist()}


if __name__ == "__main__":
    workers = int(os.environ["PEER_WORKERS"])
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=workers)
    port = int(os.environ["PEER_PORT"])
    server.run(host="127.0.0.1", port=port, num_api_servers=workers, log_level="warning", generate_client_file=False)
