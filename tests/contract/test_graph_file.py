"""A graph is one file: weights in others are refused, however the reference is spelt."""

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from msd.contract.errors import BundleError
from msd.contract.graph_file import FIELDS, INSIDE, check_graph_file

_X, _Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")


def outside(path: str = "../secret") -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=path)
    return tensor


def model(nodes: list[onnx.NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [_X], [_Y], tensors))


def _branch(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "b", [], [_Y])


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "sparse", "function", "location alone"])
def test_rejects_weights_in_other_files(tmp_path: Path, place: str) -> None:
    path, tensor, made = tmp_path / "ranker.onnx", outside(), model([], [])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    if place == "sparse":
        made.graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "function":
        made.functions.add(name="f").node.append(constant)
    elif place in ("constant", "branch"):
        branch = helper.make_node("If", ["x"], ["y"], then_branch=_branch(tensor))
        made.graph.node.append(constant if place == "constant" else branch)
    else:
        made.graph.initializer.append(tensor)
        if place == "location alone":
            made.graph.initializer[0].ClearField("external_data")
    path.write_bytes(made.SerializeToString())
    with pytest.raises(BundleError, match="has weights in another file"):
        check_graph_file(path)

    inner = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    made = model([helper.make_node("If", ["x"], ["y"], then_branch=_branch(inner))], [inner])
    path.write_bytes(made.SerializeToString())
    check_graph_file(path)


@given(content=st.binary(max_size=200))
def test_any_bytes_pass_or_are_rejected(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with suppress(BundleError):
        check_graph_file(path)


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x7f", b"\xff" * 20, b"\x07"])
def test_rejects_other_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ranker.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="not an ONNX graph"):
        check_graph_file(tmp_path / "ranker.onnx")


def test_accepts_default_location(tmp_path: Path) -> None:
    path, inner = tmp_path / "ranker.onnx", helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    inner.data_location = TensorProto.DEFAULT
    path.write_bytes(model([], [inner]).SerializeToString())
    check_graph_file(path)


def _reaches_tensor(message: Descriptor, above: frozenset[str] = frozenset()) -> bool:
    if message.name in above:
        return False
    inner = [field.message_type for field in message.fields if field.message_type]
    return message.name == "TensorProto" or any(_reaches_tensor(part, above | {message.name}) for part in inner)


@pytest.mark.parametrize("kind", FIELDS)
def test_knows_all_fields_of_onnx(kind: str) -> None:
    types = {field.number: field.message_type for field in getattr(onnx, kind).DESCRIPTOR.fields}
    assert FIELDS[kind] == types.keys()
    assert INSIDE[kind] == {number: part.name for number, part in types.items() if part and _reaches_tensor(part)}


def _varint(value: int, size: int = 1) -> bytes:
    """Encode a number in at least `size` bytes."""
    size = max(size, -(-value.bit_length() // 7))
    return bytes((value >> 7 * place & 0x7F) | (0x80 if place < size - 1 else 0) for place in range(size))


def _respelt(message: Message, rng: random.Random) -> bytes:
    """Serialise a message with some odd tags and sizes, some fields twice, and some unknown ones."""
    parts = []
    for field, value in message.ListFields():
        if field.message_type:
            contents = [_respelt(part, rng) for part in ([value] if isinstance(value, Message) else value)]
            tag, contents = field.number << 3 | 2, [_varint(len(part), rng.choice(_SIZES)) + part for part in contents]
        else:
            alone = type(message)()
            alone.CopyFrom(message)
            for other, _ in message.ListFields():
                if other is not field:
                    alone.ClearField(other.name)
            plain = alone.SerializeToString()
            width = len(_varint(field.number << 3))
            tag, contents = int.from_bytes(plain[:1]) if width == 1 else field.number << 3 | 2, [plain[width:]]
        for content in contents:
            parts.append(_varint(tag + (rng.choice(_HIGH_BITS) << 32), rng.choice(_SIZES)) + content)
    if rng.random() < 0.05:
        parts.insert(rng.randrange(len(parts) + 1), _varint(rng.choice([99, 2**28]) << 3 | 2) + b"\x01x")
    return b"".join(parts)


_HIGH_BITS = [0] * 20 + [1, 7]
_SIZES = [1] * 20 + [2, 5]


def _reads_outside(path: Path) -> bool:
    """Return whether ONNX Runtime or onnx's parser finds a reference to another file."""
    with suppress(DecodeError):
        found = onnx.ModelProto.FromString(path.read_bytes())
        if any(tensor.external_data or tensor.data_location for tensor in _tensors(found)):
            return True
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return bool(session.run(None, {"x": np.zeros(1, np.float32)})[0] == _SECRET)
    except Exception:  # onnxruntime raises a type of its own for each status, with no common base
        return False


def _tensors(message: Message) -> Iterator[TensorProto]:
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if isinstance(value, Message) else value:
                yield from _tensors(part)


_SECRET = 123.0


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), is_inner=st.booleans(), flips=st.integers(0, 2))
def test_rejects_what_a_parser_reads_from_other_files(
    tmp_path_factory: pytest.TempPathFactory, seed: int, is_inner: bool, flips: int
) -> None:
    rng, path = random.Random(seed), tmp_path_factory.getbasetemp() / "spelt/ranker.onnx"
    path.parent.mkdir(exist_ok=True)
    (path.parent / "secret").write_bytes(np.float32(_SECRET).tobytes())
    tensor = outside("secret")
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    made = model([*([constant] if is_inner else []), _SUM], [] if is_inner else [tensor])
    path.write_bytes(made.SerializeToString())
    assert _reads_outside(path)
    content = bytearray(_respelt(made, rng))
    for _ in range(flips):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    try:
        check_graph_file(path)
    except BundleError:
        return
    assert not _reads_outside(path)


_SUM = helper.make_node("Add", ["x", "w"], ["y"])


def test_rejects_tag_that_only_the_runtime_reads(tmp_path: Path) -> None:
    """The runtime keeps 32 bits of a tag; onnx's parser in Python refuses more."""
    path, graph = tmp_path / "ranker.onnx", model([_SUM], [outside("secret")])
    (tmp_path / "secret").write_bytes(np.float32(_SECRET).tobytes())
    hidden = graph.graph.SerializeToString()
    graph.ClearField("graph")
    path.write_bytes(graph.SerializeToString() + b"\xba\x80\x80\x80\x10" + _varint(len(hidden)) + hidden)
    assert _reads_outside(path)
    with pytest.raises(BundleError, match="ModelProto has no field"):
        check_graph_file(path)
