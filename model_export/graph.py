"""Conversion of a torch module to an ONNX graph, in bytes, with named inputs and outputs."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

_OPSET = 18


def to_onnx(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> bytes:
    """Trace `module(*examples)` for inference. `axes` names each tensor's axes of variable length."""
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
