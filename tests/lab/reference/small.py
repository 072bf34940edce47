"""The reference model in small, for tests."""

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.reference.inputs import Feeds, Sizes
from lab.reference.network import ReferenceModel, made
from model_export.run import open_session

Output = NDArray[np.floating]

SMALL = Sizes(vector=8, fields=3, vocabulary=20, embedding=4, history=8, attention=5, hidden=(12, 10, 7))


def network() -> ReferenceModel:
    """A small one, whose scores differ."""
    return made(SMALL, 0)


def scores(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> list[Output]:
    """Each head's scores by torch."""
    with torch.no_grad():
        found = module(*inputs)
    return [head.numpy() for head in ([found] if isinstance(found, Tensor) else found)]


def run(model: onnx.ModelProto, feeds: Feeds) -> list[Output]:
    """Each head's scores by ONNX Runtime."""
    session = open_session(model.SerializeToString())
    return list(session.run(None, {tensor.name: feeds[tensor.name] for tensor in session.get_inputs()}))


def greatest(found: list[Output], expected: list[Output]) -> float:
    """The greatest difference between two lists of arrays of the same shapes."""
    assert [head.shape for head in found] == [head.shape for head in expected]
    return max(float(np.abs(head - other).max()) for head, other in zip(found, expected, strict=True))
