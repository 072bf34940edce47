"""A graph in ONNX Runtime, as each peer runs it. Imported in their environments: needs onnxruntime and numpy."""

import os
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from lab.bench.peers.wire import Tensors

GRAPH, THREADS, WORKERS, PORT = "PEER_GRAPH", "PEER_THREADS", "PEER_WORKERS", "PEER_PORT"


class Scorer:
    """The graph and the threads that the environment names."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ[THREADS])
        self._session: Any = onnxruntime.InferenceSession(
            os.environ[GRAPH], options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, tensors: Tensors) -> NDArray[np.float32]:
        """Return the first head's scores [N]."""
        scores: NDArray[np.float32] = self._session.run(["pctr"], tensors)[0]
        return scores
