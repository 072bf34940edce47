"""Networks and twins as ONNX graphs. Knows torch and the exporter; runs nothing."""

from typing import Protocol

import onnx
import torch
from torch import Tensor, nn

from lab.reference.inputs import SIDES, Sizes, random_feeds, tiled
from lab.reference.network import ReferenceNetwork
from model_export.graph import to_onnx

AXIS = "candidates"
_EXAMPLE_CANDIDATES = 3


class Named(Protocol):
    """Names of a module's inputs and heads."""

    inputs: tuple[str, ...]
    heads: tuple[str, ...]


def plain_graph(module: nn.Module, named: Named, sizes: Sizes) -> onnx.ModelProto:
    """Return the graph with the user's inputs at batch 1, the items' at any number, and heads [N]."""
    return _graph(module, named, examples(named, sizes), {name for name in named.inputs if SIDES[name] == "item"})


def tiled_graph(network: ReferenceNetwork, sizes: Sizes) -> onnx.ModelProto:
    """Return the graph with one row per candidate in every input, without repetition inside."""
    network.tiled = True
    try:
        rows = tiled({name: value for name, value in random_feeds(sizes, _EXAMPLE_CANDIDATES, 0).items()})
        return _graph(network, network, tuple(torch.from_numpy(rows[name]) for name in network.inputs), set(rows))
    finally:
        network.tiled = False


def examples(named: Named, sizes: Sizes, candidates: int = _EXAMPLE_CANDIDATES, seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs in the module's order."""
    feeds = random_feeds(sizes, candidates, seed)
    return tuple(torch.from_numpy(feeds[name]) for name in named.inputs)


def _graph(module: nn.Module, named: Named, inputs: tuple[Tensor, ...], many: set[str]) -> onnx.ModelProto:
    axes = {name: {0: AXIS} for name in (*named.inputs, *named.heads) if name in many or name in named.heads}
    return onnx.load_from_string(to_onnx(module, inputs, list(named.inputs), list(named.heads), axes))
