"""The trained ranker → ranker.onnx: user and context at batch 1, candidates at batch N, calibration in the graph."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.graph import to_onnx
from msd.contract.assemble import Tensors
from msd.contract.schema import FeatureSchema
from msd.ranker.batch import TrainedRanker

HEADS = ("pctr",)
_EXAMPLE_CANDIDATES = 3


class ServingRanker(nn.Module):
    """The schema's tensors in their order → calibrated click probabilities [N]."""

    def __init__(self, trained: TrainedRanker) -> None:
        super().__init__()
        self.trained = trained
        self.names = [spec.name for spec in trained.schema.tensors]

    def forward(self, *tensors: Tensor) -> Tensor:
        logits = self.trained.ranker(dict(zip(self.names, tensors, strict=True)))
        return torch.sigmoid(self.trained.calibrator(logits))


def ranker_graph(trained: TrainedRanker) -> bytes:
    """The graph; inputs are named by the schema's tensors, the one output is `pctr`."""
    specs = trained.schema.tensors
    axes = {spec.name: {0: "candidates"} for spec in specs if spec.side == "item"} | {HEADS[0]: {0: "candidates"}}
    module = ServingRanker(trained.eval()).eval()
    return to_onnx(module, _examples(trained.schema), module.names, HEADS, axes)


def torch_scores(trained: TrainedRanker, tensors: Tensors) -> NDArray[np.float32]:
    """[N] probabilities by torch, of the same tensors that a request gives the exported graph."""
    module = ServingRanker(trained.eval()).eval()
    # Copied, because torch refuses what numpy calls contiguous: one record's columns, at odd strides.
    copies = (torch.from_numpy(np.array(tensors[name], order="C")) for name in module.names)
    with torch.no_grad():
        scores: NDArray[np.float32] = module(*copies).numpy()
    return scores


def _examples(schema: FeatureSchema) -> tuple[Tensor, ...]:
    return tuple(
        torch.zeros(
            (_EXAMPLE_CANDIDATES if spec.side == "item" else 1, *spec.shape),
            dtype=torch.int32 if spec.dtype == "int32" else torch.float32,
        )
        for spec in schema.tensors
    )
