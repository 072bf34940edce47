"""Networks as ONNX graphs. Knows torch and the exporter; runs nothing."""

import onnx
import torch
from torch import Tensor

from lab.reference.inputs import SIDES, Sizes, random_feeds, tiled
from lab.reference.network import ReferenceModel
from model_export.graph import to_onnx
from model_export.ranker import ServingRanker, heads_of
from msd.ranker.batch import TrainedRanker

AXIS = "candidates"
_EXAMPLE_CANDIDATES = 3


def plain_graph(module: ReferenceModel, sizes: Sizes) -> onnx.ModelProto:
    """Return the graph with the user's inputs at batch 1, the items' at any number, and heads [N]."""
    return _graph(module, examples(module, sizes), {name for name in module.inputs if SIDES[name] == "item"})


def tiled_graph(network: ReferenceModel, sizes: Sizes) -> onnx.ModelProto:
    """Return the graph with one row per candidate in every input, without repetition inside."""
    network.tiled = True
    try:
        rows = tiled(random_feeds(sizes, _EXAMPLE_CANDIDATES, 0))
        return _graph(network, tuple(torch.from_numpy(rows[name]) for name in network.inputs), set(network.inputs))
    finally:
        network.tiled = False


def own_tiled_graph(trained: TrainedRanker) -> bytes:
    """Return the graph of MSD's own ranker with one row per candidate in every input."""
    module = ServingRanker(trained.eval()).eval()
    specs, heads = trained.schema.tensors, heads_of(trained)
    rows = tuple(torch.zeros(_EXAMPLE_CANDIDATES, *spec.shape, dtype=getattr(torch, spec.dtype)) for spec in specs)
    return to_onnx(module, rows, module.names, heads, {name: {0: AXIS} for name in (*module.names, *heads)})


def examples(
    module: ReferenceModel, sizes: Sizes, candidates: int = _EXAMPLE_CANDIDATES, seed: int = 0
) -> tuple[Tensor, ...]:
    """Return random inputs in the module's order."""
    feeds = random_feeds(sizes, candidates, seed)
    return tuple(torch.from_numpy(feeds[name]) for name in module.inputs)


def _graph(module: ReferenceModel, inputs: tuple[Tensor, ...], many: set[str]) -> onnx.ModelProto:
    axes = {name: {0: AXIS} for name in (*module.heads, *many)}
    return onnx.load_from_string(to_onnx(module, inputs, list(module.inputs), list(module.heads), axes))
