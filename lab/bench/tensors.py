"""Tensors as JSON with base64 contents: what clients of the peer send."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


def encoded(tensors: Tensors) -> bytes:
    """Return tensors as JSON with base64 contents."""
    return json.dumps(
        {
            name: {
                "dtype": tensor.dtype.str,
                "shape": tensor.shape,
                "data": base64.b64encode(np.ascontiguousarray(tensor).tobytes()).decode(),
            }
            for name, tensor in tensors.items()
        }
    ).encode()


def decoded(request: dict[str, Any]) -> Tensors:
    """Return the tensors of such a document."""
    return {
        name: np.frombuffer(base64.b64decode(tensor["data"]), tensor["dtype"]).reshape(tensor["shape"])
        for name, tensor in request.items()
    }
