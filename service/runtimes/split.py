"""Splits an ONNX graph in two: what no candidate enters, and the rest, which takes the first half's values.

Reads and writes the file's protobuf fields, because a service does not install `onnx`. Knows no runtime.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

# Field numbers of onnx.proto.
_MODEL_GRAPH, _TYPE_TENSOR = 7, 1
_NODE, _GRAPH_NAME, _INITIALIZER, _INPUT, _OUTPUT, _SPARSE = 1, 2, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE, _ATTRIBUTE_GRAPHS, _TENSOR_NAME, _VALUE_NAME = 1, 2, 5, (6, 11), 8, 1
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_FIXED_BYTES: Mapping[int, int] = {_FIXED_64: 8, _FIXED_32: 4}


class Unsplit(Exception):
    """The graph cannot be split; the message says why."""


class Field(NamedTuple):
    """One field of a message: its number, its value, and its bytes with its tag."""

    number: int
    value: bytes
    whole: bytes


class _Node(NamedTuple):
    whole: bytes
    reads: Sequence[str]
    makes: Sequence[str]


class SplitGraph:
    """A graph's two halves. `inputs`: names of the user's and the context's inputs."""

    def __init__(self, model: bytes, inputs: Set[str]) -> None:
        """Raises Unsplit."""
        self._around = b"".join(one.whole for one in _fields(model) if one.number != _MODEL_GRAPH)
        graph = [one for field in _fields(model) if field.number == _MODEL_GRAPH for one in _fields(field.value)]
        if any(one.number == _SPARSE for one in graph):
            raise Unsplit("its graph has sparse weights")
        self._initializers = {_name(one.value, _TENSOR_NAME): one for one in graph if one.number == _INITIALIZER}
        given = {_name(one.value, _VALUE_NAME): one for one in graph if one.number == _INPUT}
        self._given = {name: one for name, one in given.items() if name not in self._initializers}
        self._outputs = [one for one in graph if one.number == _OUTPUT]
        self._name = [one.whole for one in graph if one.number == _GRAPH_NAME]
        of_user, of_items = set(inputs), self._given.keys() - inputs
        self._first: list[_Node] = []
        self._second: list[_Node] = []
        made: list[str] = []
        for node in (_node(one) for one in graph if one.number == _NODE):
            if not of_items.isdisjoint(node.reads):
                of_items = of_items | set(node.makes)
                self._second.append(node)
                continue
            self._first.append(node)
            if of_user.isdisjoint(node.reads):  # a constant, for both
                self._second.append(node)
            else:
                of_user.update(node.makes)
                made += node.makes
        self._wanted = {name for node in self._second for name in node.reads}
        self.values = [name for name in made if name in self._wanted]
        """Names of what the first half gives to the second."""
        if not self.values:
            raise Unsplit("nothing in its graph depends on the user alone")
        heads = [_name(one.value, _VALUE_NAME) for one in self._outputs]
        if alone := [head for head in heads if head not in of_items]:
            raise Unsplit(f"its output {alone[0]!r} depends on no candidate")

    def first(self) -> bytes:
        """Return the half that no candidate enters."""
        reads = {name for node in self._first for name in node.reads}
        inputs = [one.whole for name, one in self._given.items() if name in reads]
        return self._model(self._first, inputs, [_message(_OUTPUT, _text(_VALUE_NAME, one)) for one in self.values])

    def second(self, types: Mapping[str, int]) -> bytes:
        """Return the half that scores; `types`: ONNX's element types of `values`."""
        inputs = [one.whole for name, one in self._given.items() if name in self._wanted]
        inputs += [_message(_INPUT, _text(_VALUE_NAME, name) + _type(types[name])) for name in self.values]
        return self._model(self._second, inputs, [one.whole for one in self._outputs])

    def _model(self, nodes: Sequence[_Node], inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
        reads = {name for node in nodes for name in node.reads}
        weights = [one.whole for name, one in self._initializers.items() if name in reads]
        graph = b"".join([*self._name, *(node.whole for node in nodes), *weights, *inputs, *outputs])
        return self._around + _message(_MODEL_GRAPH, graph)


def _node(field: Field) -> _Node:
    parts = list(_fields(field.value))
    reads = [one.value.decode() for one in parts if one.number == _NODE_INPUT and one.value]
    reads += [name for one in parts if one.number == _NODE_ATTRIBUTE for name in _captured(one.value)]
    makes = [one.value.decode() for one in parts if one.number == _NODE_OUTPUT and one.value]
    return _Node(field.whole, reads, makes)


def _captured(attribute: bytes) -> Iterator[str]:
    """Yield all names that an attribute's graphs read, their own values included."""
    for graph in (one.value for one in _fields(attribute) if one.number in _ATTRIBUTE_GRAPHS):
        for one in _fields(graph):
            if one.number == _NODE:
                yield from _node(one).reads
            elif one.number == _OUTPUT:
                yield _name(one.value, _VALUE_NAME)


def _name(message: bytes, number: int) -> str:
    return next((one.value.decode() for one in _fields(message) if one.number == number), "")


def _fields(message: bytes) -> Iterator[Field]:
    """Yield a message's fields; the file is known to be a graph (`msd.contract.graph_file`)."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire == _VARINT:
            size = _varint(message, at)[1] - at
        else:
            size = _FIXED_BYTES[wire]
        yield Field(tag >> 3, message[at : at + size], message[start : at + size])
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _message(number: int, content: bytes) -> bytes:
    return _number(number << 3 | _BYTES) + _number(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _type(element: int) -> bytes:
    """Return a value's type: a tensor of this element type, of any shape."""
    return _message(2, _message(_TYPE_TENSOR, _number(1 << 3 | _VARINT) + _number(element)))


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
