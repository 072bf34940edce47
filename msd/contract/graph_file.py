"""Checks that an ONNX graph has no external weights: a manifest does not list or hash such files. Walks the file's
protobuf fields, and refuses whatever a parser might read otherwise.
"""

import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msd.contract.errors import BundleError

INSIDE: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
"""By message type of onnx.proto: the message types of its fields in which a tensor may be."""
FIELDS: Mapping[str, frozenset[int]] = {
    "ModelProto": frozenset([*range(1, 9), 14, 20, 25, 26]),
    "TrainingInfoProto": frozenset(range(1, 5)),
    "FunctionProto": frozenset([1, *range(4, 15)]),
    "GraphProto": frozenset([1, 2, 5, *range(10, 17)]),
    "NodeProto": frozenset(range(1, 11)),
    "AttributeProto": frozenset([*range(1, 12), 13, 14, 15, *range(20, 24)]),
    "SparseTensorProto": frozenset(range(1, 4)),
    "TensorProto": frozenset([*range(1, 15), 16]),
}
"""All fields of these types."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MAX_TAG = 2**32
_MAX_DEPTH = 64
_MAX_FIELDS = 5_000_000
_FIELDS_A_TURN = 4_096
_MAX_VARINT_BYTES = 10


def check_graph_file(path: Path, pause: Callable[[], object] = lambda: None) -> None:
    """Raise BundleError for a graph with external weights, or a file that is not a graph. `pause` is called every few
    thousand fields."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for place, is_outside in enumerate(_fields(content, 0, len(content), "ModelProto", 0)):
                if place % _FIELDS_A_TURN == _FIELDS_A_TURN - 1:
                    pause()
                if place > _MAX_FIELDS:
                    raise ValueError("it has too many parts")
                if is_outside:
                    raise BundleError(f"{path}: has weights in another file; save the graph in one file")
    except (IndexError, ValueError) as error:
        raise BundleError(f"{path}: not an ONNX graph: {error}") from None


def _fields(content: mmap.mmap, at: int, end: int, kind: str, depth: int) -> Iterator[bool]:
    """Yield for each field of a message and of all nested ones whether it refers to another file."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    inside, known = INSIDE[kind], FIELDS[kind]
    while at < end:
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        # ONNX Runtime ignores the bits of a tag beyond these.
        if tag >= _MAX_TAG or number not in known:
            raise ValueError(f"{kind} has no field {number}")
        start, at = _skip(content, at, wire)
        if at > end:
            raise ValueError("a field ends after its message")
        if kind == "TensorProto" and number == _DATA_LOCATION:
            yield wire != _VARINT or _varint(content, start)[0] != 0
        else:
            yield kind == "TensorProto" and number == _EXTERNAL_DATA
        if wire == _BYTES and number in inside:
            yield from _fields(content, start, at, inside[number], depth + 1)


def _skip(content: mmap.mmap, at: int, wire: int) -> tuple[int, int]:
    """Return the start and end of a field's value."""
    if wire == _VARINT:
        return at, _varint(content, at)[1]
    if wire == _BYTES:
        size, at = _varint(content, at)
        return at, at + size
    if wire in (_FIXED_64, _FIXED_32):
        return at, at + (8 if wire == _FIXED_64 else 4)
    raise ValueError(f"a field of the unknown type {wire}")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = content[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number without end")
