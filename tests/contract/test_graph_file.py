"""Graphs whose weights lie in other files are refused, wherever in the graph they are, and so is what is no graph."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from msd.contract.errors import BundleError
from msd.contract.graph_file import check_graph_file

_X, _Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")


def outside() -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    return tensor


def model(nodes: list[onnx.NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [_X], [_Y], tensors))


def _branch(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "b", [], [_Y])


def _sparse() -> onnx.ModelProto:
    made = model([], [])
    made.graph.sparse_initializer.add().values.CopyFrom(outside())
    return made


def _function() -> onnx.ModelProto:
    made = model([], [])
    made.functions.add(name="f").node.append(helper.make_node("Constant", [], ["y"], value=outside()))
    return made


def _location_without_data() -> onnx.ModelProto:
    tensor = outside()
    tensor.ClearField("external_data")
    return model([], [tensor])


HIDDEN: dict[str, Callable[[], onnx.ModelProto]] = {
    "an initializer": lambda: model([], [outside()]),
    "a constant": lambda: model([helper.make_node("Constant", [], ["y"], value=outside())], []),
    "a branch": lambda: model([helper.make_node("If", ["x"], ["y"], then_branch=_branch(outside()))], []),
    "a sparse initializer": _sparse,
    "a function": _function,
    "a location alone": _location_without_data,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_rejects_weights_in_other_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "ranker.onnx"
    path.write_bytes(HIDDEN[name]().SerializeToString())

    with pytest.raises(BundleError, match="has weights in another file"):
        check_graph_file(path)


def test_whole_graph_passes(tmp_path: Path) -> None:
    inner = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    path = tmp_path / "ranker.onnx"
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
