"""Graphs whose weights lie in other files are refused, wherever in the graph they are, and so is what is no graph."""

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
