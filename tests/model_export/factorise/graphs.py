"""Small graphs written as text, and feeds for any graph."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from msd.contract.schema import Side

COUNTS = (1, 3, 50, 200)
Feeds = Mapping[str, NDArray[Any]]


def graph_of(text: str, **weights: object) -> onnx.ModelProto:
    """The model of a graph in onnx's own notation; `weights` are its initializers, floats unless they are whole."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    for name, value in weights.items():
        array = np.asarray(value)
        model.graph.initializer.append(
            numpy_helper.from_array(array.astype(np.int64 if array.dtype.kind == "i" else np.float32), name)
        )
    return model


def some(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Weights of that shape."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def sides_of(model: onnx.ModelProto) -> dict[str, Side]:
    """Inputs whose first axis varies are the item's, all others the user's."""
    return {
        value.name: "item" if value.type.tensor_type.shape.dim[0].dim_param == "N" else "user"
        for value in model.graph.input
    }


def feeds_of(model: onnx.ModelProto, candidates: int, seed: int = 0, **lengths: int) -> dict[str, NDArray[Any]]:
    """One request: numbers as they come, masks of noughts and ones, indices from 0 to 4."""
    rng = np.random.default_rng((seed, candidates))
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        names = {"N": candidates, "candidates": candidates, **lengths}
        shape = [names[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind != "f":
            feeds[value.name] = rng.integers(0, 5, shape).astype(dtype)
        elif "mask" in value.name:
            feeds[value.name] = (rng.random(shape) < 0.7).astype(dtype)
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def requests(model: onnx.ModelProto, **lengths: int) -> list[Feeds]:
    """Feeds of one, a few and many candidates."""
    return [feeds_of(model, count, seed=count, **lengths) for count in COUNTS]
