"""Export of the trained ranker with its calibration: as ranker.onnx, with one user and N candidates; and as
ranker.merged.onnx, for several requests in one run, with proof of its scores.

In the merged graph every candidate gets its own request's user, context and history, and the network sees a batch as in
training. User work is repeated for each candidate. This suits a GPU, where starting a run costs more, but not a CPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.graph import open_run, to_onnx
from model_export.parity import BundleRows
from model_export.recipe import Recipe
from msd.contract.assemble import Tensors
from msd.contract.bundle import MERGED_RANKER
from msd.contract.golden import Golden
from msd.contract.merge import REQUEST_OF, candidates_of, merge, split
from msd.contract.precision import Precision
from msd.contract.schema import FeatureSchema
from msd.ranker.batch import TrainedRanker
from msd.ranker.model import Ranker

HEADS = ("pctr",)
"""Heads of a model without conversions."""


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
    return to_onnx(module, _examples(trained.schema, 1), module.names, heads, axes)


def torch_scores(trained: TrainedRanker, tensors: Tensors) -> NDArray[np.float32]:
    """Return torch's probabilities [H, N] of the tensors that a request gives the exported graph."""
    module = ServingRanker(trained.eval()).eval()
    # Copied, because torch refuses strides that numpy calls contiguous: those of one record's columns.
    copies = (torch.from_numpy(np.array(tensors[name], order="C")) for name in module.names)
    with torch.no_grad():
        scores: NDArray[np.float32] = torch.stack(module(*copies)).numpy()
    return scores


# Requests per group. Neighbours differ in everything, which reveals mixed-up users.
_TOGETHER = 5
_EXAMPLE_REQUESTS, _EXAMPLE_CANDIDATES = 2, 3


class MergedRanker(nn.Module):
    """Ranker of several requests: users and contexts [R, …], candidates [N, …] and each candidate's request [N] to
    probabilities [N] by head."""

    def __init__(self, trained: TrainedRanker) -> None:
        super().__init__()
        self.alone = ServingRanker(trained)
        self.of_requests = [spec.side != "item" for spec in trained.schema.tensors]
        self.names = [*self.alone.names, REQUEST_OF.name]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        *given, request_of = tensors
        pairs = zip(given, self.of_requests, strict=True)
        scores: tuple[Tensor, ...] = self.alone(
            *(one.index_select(0, request_of) if many else one for one, many in pairs)
        )
        return scores


def merged_graph(trained: TrainedRanker) -> bytes:
    """Return the graph in fp32. Inputs: the schema's tensors and `request_of_candidate`. Outputs: the heads."""
    schema = trained.schema
    axes = {spec.name: {0: "candidates" if spec.side == "item" else "requests"} for spec in schema.tensors}
    heads = heads_of(trained)
    axes |= {name: {0: "candidates"} for name in (REQUEST_OF.name, *heads)}
    module = MergedRanker(trained.eval()).eval()
    request_of = torch.arange(_EXAMPLE_CANDIDATES, dtype=torch.int32) % _EXAMPLE_REQUESTS
    examples = (*_examples(schema, _EXAMPLE_REQUESTS), request_of)
    return to_onnx(module, examples, module.names, heads, axes)


def checked_merged_graph(made: Recipe, precision: Precision) -> bytes:
    """Return the merged graph of a bundle in this precision. Raises ExportError if none can score as its own graph."""
    if made.merged is None:
        raise ExportError(
            "--merged is for MSD's own ranker; what a graph of your own makes of several users is unknown"
        )
    if precision == "int8":
        raise ExportError("--merged is for GPUs, which run in fp32, and this bundle is in int8: leave one of them out")
    return made.merged()


def prove_merged(graph: bytes, heads: Sequence[str], rows: BundleRows, goldens: Sequence[Golden], most: float) -> float:
    """Return the greatest difference of the goldens' scores, several requests per run, from their expected scores.

    Raises ExportError if it exceeds `most`.
    """
    run, worst = open_run(graph, "fp32", heads), 0.0
    for start in range(0, len(goldens), _TOGETHER):
        group = goldens[start : start + _TOGETHER]
        requests = [rows.tensors(golden) for golden in group]
        scores = dict(zip(heads, run(merge(rows.schema, requests)), strict=True))
        for golden, found in zip(group, split(scores, candidates_of(rows.schema, requests)), strict=True):
            # Not max(): a NaN must count as a difference.
            worst = float(np.maximum(worst, max(_difference(golden, found[head], head) for head in heads)))
    if not worst <= most:
        raise ExportError(
            f"{MERGED_RANKER}: scores of requests that are run together differ by {worst:.2e} from those alone, more"
            f" than {most:.0e}; the bundle was not written"
        )
    return worst


def _difference(golden: Golden, found: np.ndarray[tuple[int], np.dtype[np.float32]], head: str) -> float:
    return float(np.abs(found - np.array(golden.expected[head])).max())


def _examples(schema: FeatureSchema, requests: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.zeros(
            (_EXAMPLE_CANDIDATES if spec.side == "item" else requests, *spec.shape),
            dtype=torch.int32 if spec.dtype == "int32" else torch.float32,
        )
        for spec in schema.tensors
    )
