"""Tensors as bytes, for requests to peers: a JSON head that names them, then their values. Also imported in the peers'
environments: needs only numpy.
"""

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]
_LENGTH = struct.Struct("<I")


def pack(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Pack tensors, in order."""
    head = json.dumps([[name, one.dtype.str, one.shape] for name, one in tensors.items()]).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *(np.ascontiguousarray(one).tobytes() for one in tensors.values())])


def unpack(body: bytes) -> Tensors:
    """Unpack tensors, without a copy. Raises ValueError for anything else."""
    (length,) = _LENGTH.unpack_from(body)
    place = _LENGTH.size + length
    tensors: Tensors = {}
    for name, dtype, shape in json.loads(body[_LENGTH.size : place]):
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(body, np.dtype(dtype), count, place).reshape(shape)
        place += tensors[name].nbytes
    return tensors


def in_json(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Pack tensors as base64 in a JSON object, for servers that read only JSON."""
    return json.dumps({"tensors": base64.b64encode(pack(tensors)).decode()}).encode()


def from_json(tensors: str) -> Tensors:
    """Unpack that object. Raises ValueError for anything else."""
    return unpack(base64.b64decode(tensors, validate=True))
