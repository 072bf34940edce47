"""A graph from elsewhere is read whole and finite, or refused with what is wrong with it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter
from onnx.external_data_helper import set_external_data

from model_export.errors import ExportError
from model_export.foreign.bind import bind_inputs, head_outputs, spliced_graph
from model_export.foreign.read import read_model
from tests.model_export.foreign.made import SCHEMA, write_by_feature

Damage = Callable[[ModelProto], object]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_by_feature(tmp_path_factory.mktemp("graph") / "theirs.onnx")


def _damaged(graph: Path, folder: Path, damage: Damage) -> Path:
    model = onnx.load(graph)
    damage(model)
    path = folder / "damaged.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("content", [0.0, 0.3, 0.7, 0.99, b"\x00" * 99, b"{}", b"PK\x03\x04 not a graph at all", None])
def test_rejects_truncated_other_or_missing_file(graph: Path, tmp_path: Path, content: float | bytes | None) -> None:
    path, whole = tmp_path / "other.onnx", graph.read_bytes()
    if content is not None:
        path.write_bytes(whole[: int(content * len(whole))] if isinstance(content, float) else content)
    with pytest.raises(ExportError, match=rf"other.onnx: .*{'no such' if content is None else 'not an ONNX'} file"):
        read_model(path)


@settings(max_examples=150)
@given(data=st.data())
def test_any_damage_is_an_error_of_the_file_or_none(
    graph: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, content = tmp_path_factory.getbasetemp() / "any.onnx", bytearray(graph.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    path.write_bytes(content)
    with suppress(ExportError):
        model = read_model(path)
        bindings, heads = bind_inputs(model, SCHEMA), head_outputs(model, {"pctr": model.graph.output[0].name})
        spliced_graph(model, bindings, SCHEMA, heads)


def _opset(version: int) -> Damage:
    def damage(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return damage


def _custom(model: ModelProto) -> None:
    model.graph.node[0].domain = "org.example"
    model.graph.node[0].name = "the gather"
    model.opset_import.append(helper.make_opsetid("org.example", 1))


def _weight(model: ModelProto) -> TensorProto:
    (weight,) = [weight for weight in model.graph.initializer if weight.name == "user.weight"]
    assert isinstance(weight, TensorProto)
    return weight


def _nan(model: ModelProto) -> None:
    array = numpy_helper.to_array(_weight(model)).copy()
    array[3, 1] = np.nan
    _weight(model).CopyFrom(numpy_helper.from_array(array, "user.weight"))


def _outside(location: str, **more: str) -> Damage:
    def damage(model: ModelProto) -> None:
        set_external_data(_weight(model), location)
        for key, value in more.items():
            _weight(model).external_data.add(key=key, value=value)

    return damage


def _functions(*calls: tuple[str, ...]) -> Damage:
    """Local functions, each of which calls others; the graph calls the last."""

    def damage(model: ModelProto) -> None:
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
        for name, *called in calls:
            nodes = [helper.make_node(one, ["a"], ["b"], domain="local" * (one != "Identity")) for one in called]
            model.functions.append(helper.make_function("local", name, ["a"], ["b"], nodes, opsets))
        model.graph.node.append(helper.make_node(calls[-1][0], [model.graph.input[0].name], ["n"], domain="local"))
        model.opset_import.append(opsets[1])

    return damage


_DOUBLING = ("f0", "Identity"), *((f"f{k}", f"f{k - 1}", f"f{k - 1}") for k in range(1, 40))
_NESTED = ("f0", "Identity"), *((f"f{k}", f"f{k - 1}") for k in range(1, 3_000))


def _short(model: ModelProto) -> None:
    _weight(model).raw_data = _weight(model).raw_data[:10]


def _nan_constant(model: ModelProto) -> None:
    value = numpy_helper.from_array(np.array([np.nan], np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["none"], name="a constant", value=value))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda model: model.graph.node.append(NodeProto(op_type="Steal", domain="org.example")),
            "the node Steal is of org.example.Steal, which onnxruntime does not have",
        ),
        (_outside("weights.bin", offset="x"), "where the weight 'user.weight' lies cannot be read: invalid literal"),
        (_outside("a\0b"), "where the weight 'user.weight' lies cannot be read: embedded null byte"),
        (_outside("a" * 5_000), "where the weight 'user.weight' lies cannot be read: .*too long"),
        (_functions(("f", "f")), "is not valid ONNX: Cycle detected"),
        (_functions(*_DOUBLING), r"has 54975581\d+ nodes once its functions are inlined"),
        (_functions(*_NESTED), "its functions are nested too deeply"),
        (_short, "is not valid ONNX: .*user.weight.* is too small"),
        (_opset(4), "uses opset 4; 9 to"),
        (_opset(9_999), "uses opset 9999; 9 to .* Export it again"),
        (_custom, "the node the gather is of org.example.Gather, which onnxruntime does not have"),
        (lambda model: setattr(model.graph.node[0], "op_type", "Guess"), "is not valid ONNX: .*Guess"),
        (_nan, "the weight 'user.weight' holds NaN"),
        (_nan_constant, "the weight 'a constant' holds NaN"),
        (_outside("../secrets.bin"), r"'user.weight' is said to be in '../secrets.bin', outside the graph's folder"),
        (_outside("/etc/passwd"), "'user.weight' is said to be in '/etc/passwd', outside the graph's folder"),
        (_outside("weights.bin"), "'user.weight' is in 'weights.bin', which is missing beside it"),
    ],
)
def test_rejects_invalid_or_unsafe_graph(graph: Path, tmp_path: Path, damage: Damage, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        read_model(_damaged(graph, tmp_path, damage))


def test_rejects_link_out_of_folder(graph: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x" * 4096)
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ExportError, match="outside the graph's folder"):
        read_model(_damaged(graph, folder, _outside("weights.bin")))


def test_reads_weights_beside_graph(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(graph), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    whole, split = (
        {one.name: numpy_helper.to_array(one) for one in read_model(of).graph.initializer} for of in (graph, path)
    )
    assert whole.keys() == split.keys()
    assert all(np.array_equal(whole[name], split[name]) for name in whole)


def test_inlines_functions(tmp_path: Path) -> None:
    double = helper.make_function(
        "mine", "Double", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Double", ["x"], ["y"], domain="mine")], "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    path = tmp_path / "function.onnx"
    path.write_bytes(
        helper.make_model(graph, functions=[double], opset_imports=opsets, ir_version=10).SerializeToString()
    )
    model = read_model(path)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([1.5], np.float32)})[0].tolist() == [3.0]


def test_converts_older_opset(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "older.onnx"
    onnx.save(version_converter.convert_version(onnx.load(graph), 15), path)
    model = read_model(path)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18}
    feed = {
        value.name: np.ones(
            [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim],
            helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in model.graph.input
    }
    found, expected = (
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for one in (model.SerializeToString(), graph.read_bytes())
    )
    np.testing.assert_array_equal(found, expected)


def test_rejects_unconvertible_opset(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: ModelProto, opset: int) -> ModelProto:
        raise RuntimeError(f"No Adapter to Version {opset} for Shape\nmore")

    path = tmp_path / "older.onnx"
    onnx.save(version_converter.convert_version(onnx.load(graph), 15), path)
    monkeypatch.setattr(version_converter, "convert_version", refuse)
    with pytest.raises(
        ExportError, match=r"uses opset 15, and onnx .* to 18 \(No Adapter .*Shape\); export it with opset 18"
    ):
        read_model(path)
