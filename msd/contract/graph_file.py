"""Checks that an ONNX graph has no external weights: a manifest does not list or hash such files. Walks the file's
protobuf fields.
"""

import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msd.contract.errors import BundleError

# By message type: the message types of its fields (onnx.proto).
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MAX_DEPTH = 64
_MAX_FIELDS = 5_000_000
_FIELDS_A_TURN = 4_096
_MAX_VARINT_BYTES = 10


def check_graph_file(path: Path, pause: Callable[[], object] = lambda: None) -> None:
    """Raise BundleError for a graph with external weights, or a file that is not a graph. `pause` is called every few
    thousand fields."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for place, (kind, number) in enumerate(_fields(content, 0, len(content), "model", 0)):
                if place % _FIELDS_A_TURN == _FIELDS_A_TURN - 1:
                    pause()
                if place > _MAX_FIELDS:
                    raise ValueError("it has too many parts")
                if kind == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION):
                    raise BundleError(f"{path}: has weights in another file; save the graph in one file")
    except (IndexError, ValueError) as error:
        raise BundleError(f"{path}: not an ONNX graph: {error}") from None


def _fields(content: mmap.mmap, at: int, end: int, kind: str, depth: int) -> Iterator[tuple[str, int]]:
    """Yield the fields of a message and of all nested ones, by message type and field number."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    inside = _INSIDE[kind]
    while at < end:
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        start, at = _skip(content, at, wire)
        if at > end:
            raise ValueError("a field ends after its message")
        yield kind, number
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
