"""Runs of a graph in a precision, on one thread as in the service. Knows no torch."""

from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_export.errors import ExportError
from msd.contract.openvino import OpenVinoGraph, load_openvino, openvino_core
from msd.contract.precision import Precision
from msd.contract.tensors import Tensors

Run = Callable[[Tensors], NDArray[np.float32]]
"""From the schema's tensors to the heads' scores [H, N]."""


def open_run(graph: bytes, precision: Precision, heads: Sequence[str], candidates: int = 0) -> Run:
    """Open a graph in a precision. `candidates`: expected number, 0 if unknown. Raises ExportError if this machine
    cannot run the graph in that precision."""
    return _open_openvino(graph, heads, candidates) if precision == "bf16" else _open_onnxruntime(graph, heads)


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _open_onnxruntime(graph: bytes, heads: Sequence[str]) -> Run:
    session = open_session(graph)

    def run(tensors: Tensors) -> NDArray[np.float32]:
        return np.stack(session.run(list(heads), tensors))

    return run


def _open_openvino(graph: bytes, heads: Sequence[str], candidates: int) -> Run:
    try:
        load_openvino()
    except ImportError:
        raise ExportError("bf16 runs on OpenVINO, which is not installed: pip install 'msd-ctr[openvino]'") from None
    offered = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in offered:
        raise ExportError(f"OpenVINO does not offer bf16 on this CPU; it offers {', '.join(sorted(offered))}")
    try:
        opened = OpenVinoGraph(graph, "bf16", 1, heads, candidates)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot compile the graph: {error}") from error

    def run(tensors: Tensors) -> NDArray[np.float32]:
        return np.stack(list(opened.run(tensors).values()))

    return run
