"""Graphs in bytes, from torch modules."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic

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
