"""Export of the trained ranker as ranker.onnx.

User and context have batch 1, candidates batch N. Calibration is part of the graph.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.foreign.bind import input_of
from model_export.graph import fold_constants, to_onnx
from msd.contract.schema import FeatureSchema, TensorSpec
from msd.contract.tensors import Tensors
from msd.ranker.batch import TrainedRanker
from msd.ranker.model import Ranker

HEADS = ("pctr",)
"""Heads of a model without conversions."""
_EXAMPLE_CANDIDATES = 3


def heads_of(trained: TrainedRanker) -> tuple[str, ...]:
    """Return a model's heads: clicks and, if it has them, conversions of clicks."""
    return (*HEADS, "pcvr") if trained.has_conversions else HEADS


class ServingRanker(nn.Module):
    """Ranker with calibration: the schema's tensors in their order to calibrated probabilities [N] of each head."""

    def __init__(self, trained: TrainedRanker) -> None:
        super().__init__()
        self.trained = trained
        self.names = [spec.name for spec in trained.schema.tensors]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        trained, given = self.trained, dict(zip(self.names, tensors, strict=True))
        if not (isinstance(trained.ranker, Ranker) and trained.has_conversions):
            return (torch.sigmoid(trained.calibrator(trained.ranker(given))),)
        clicks, conversions = trained.ranker.heads(given)
        return torch.sigmoid(trained.calibrator(clicks)), torch.sigmoid(trained.conversion_calibrator(conversions))


def ranker_graph(trained: TrainedRanker) -> bytes:
    """Return the graph. Inputs are named by the schema's tensors, outputs by the heads."""
    specs, heads = trained.schema.tensors, heads_of(trained)
    axes = {name: {0: "candidates"} for name in (*(spec.name for spec in specs if spec.side == "item"), *heads)}
    module = ServingRanker(trained.eval()).eval()
    traced = to_onnx(module, _examples(trained.schema), module.names, heads, axes)
    return _with_all_inputs(fold_constants(traced), specs)


def _with_all_inputs(graph: bytes, specs: Sequence[TensorSpec]) -> bytes:
    """Return the graph with all tensors as inputs; the exporter drops those that the network does not read."""
    model = onnx.load_from_string(graph)
    known = {given.name for given in model.graph.input}
    model.graph.input.extend(input_of(spec) for spec in specs if spec.name not in known)
    return bytes(model.SerializeToString())


def torch_scores(trained: TrainedRanker) -> Callable[[Tensors], NDArray[np.float32]]:
    """Return what computes torch's probabilities [H, N] of the tensors that a request gives the exported graph."""
    module = ServingRanker(trained).eval()

    @torch.no_grad()
    def scores(tensors: Tensors) -> NDArray[np.float32]:
        # Copied, because torch refuses strides that numpy calls contiguous: those of one record's columns.
        copies = (torch.from_numpy(np.array(tensors[name], order="C")) for name in module.names)
        found: NDArray[np.float32] = torch.stack(module(*copies)).numpy()
        return found

    return scores


def _examples(schema: FeatureSchema) -> tuple[Tensor, ...]:
    return tuple(
        torch.zeros(
            (_EXAMPLE_CANDIDATES if spec.side == "item" else 1, *spec.shape),
            dtype=torch.int32 if spec.dtype == "int32" else torch.float32,
        )
        for spec in schema.tensors
    )
