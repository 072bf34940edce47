"""Graphs in bytes: conversion of a torch module, and runs in a precision, on one thread as in the service."""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic

from model_export.errors import ExportError
from msd.contract.assemble import Tensors
from msd.contract.openvino import OpenVinoGraph, load_openvino, openvino_core
from msd.contract.precision import Precision

_OPSET = 18


def to_onnx(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> bytes:
    """Trace `module(*examples)` for inference. `axes` names each tensor's axes of variable length."""
    register_custom_op_symbolic("aten::linalg_inv", _inverse, _OPSET)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        # Ignore that this exporter is the old one: the new one takes eight times as long for the same graph, and logs.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            examples,
            path,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(by_axis) for name, by_axis in axes.items()},
            opset_version=_OPSET,
            dynamo=False,
        )
        return path.read_bytes()


def _inverse(graph: Any, matrices: Any) -> Any:  # noqa: ANN401 - torch has no types of its graphs
    """ONNX has no operator for it; ONNX Runtime has."""
    return graph.op("com.microsoft::Inverse", matrices).setType(matrices.type())


def fold_constants(graph: bytes) -> bytes:
    """Return the graph with what depends on no input computed, and without repeated nodes, in standard operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


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
