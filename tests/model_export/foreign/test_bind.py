"""Each input gets the columns that its name stands for, and the spliced graph computes what the graph itself does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from model_export.errors import ExportError
from model_export.foreign.bind import bind_inputs, head_outputs, named_columns, spliced_graph
from model_export.foreign.read import read_model
from msd.contract.schema import Categorical, FeatureSchema
from msd.contract.tensors import Tensors
from tests.model_export.foreign.made import SCHEMA, tensors_of, write_by_feature, write_two_tasks


def test_tensors_counts_and_history_have_names() -> None:
    columns = named_columns(SCHEMA)
    tensors = {
        "history_categorical": np.arange(16).reshape(1, 4, 4),
        "item_dense": np.arange(5.0)[None],
    }
    assert columns["history_item_id"].of(tensors).tolist() == [[[0], [4], [8], [12]]]
    assert columns["history_genres"].of(tensors)[0, 1].tolist() == [5, 6, 7]
    assert columns["item_counts"].of(tensors).tolist() == [[2.0, 3.0, 4.0]]
    assert {spec.name for spec in SCHEMA.tensors} <= columns.keys()
    assert columns["price"].optional == 1


def test_tensor_name_precedes_feature() -> None:
    fields = (*SCHEMA.fields, Categorical(name="item_dense", side="context", vocabulary=("q",)))
    columns = named_columns(FeatureSchema(fields=fields))
    assert columns["item_dense"].tensor.side == "item"


Input = tuple[str, int, list[Any]]
ITEM: Input = ("item_dense", TensorProto.FLOAT, ["n", 5])


def _graph(*inputs: Input, outputs: tuple[tuple[str, list[Any]], ...] = (("pctr", ["n"]),)) -> ModelProto:
    """A graph of such inputs and outputs; what it computes does not matter."""
    infos = [helper.make_tensor_value_info(name, type_, shape) for name, type_, shape in inputs]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    nodes = [helper.make_node("Identity", [inputs[0][0]], [name]) for name, _ in outputs]
    return helper.make_model(helper.make_graph(nodes, "g", infos, ends))


def _run(model: ModelProto, feed: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, feed)
    return found


def _fed(model: ModelProto, tensors: Tensors, candidates: int) -> dict[str, NDArray[Any]]:
    return {binding.name: binding.value(tensors, candidates) for binding in bind_inputs(model, SCHEMA)}


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (("user_id", TensorProto.INT64, [1, 1]), lambda t: t["user_categorical"][:, :1]),
        (("country", TensorProto.INT32, [1]), lambda t: t["user_categorical"][:, 1]),
        (("age", TensorProto.FLOAT, [1, 2]), lambda t: t["user_dense"]),
        (("age", TensorProto.FLOAT, [1, 1]), lambda t: t["user_dense"][:, :1]),
        (("age", TensorProto.DOUBLE, [1]), lambda t: t["user_dense"][:, 0]),
        (("age", TensorProto.FLOAT, ["n", 1]), lambda t: t["user_dense"][:, :1].repeat(3, 0)),
        (("hour", TensorProto.INT64, ["n"]), lambda t: t["context_categorical"][:, 0].repeat(3, 0)),
        (("genres", TensorProto.INT64, ["n", 3]), lambda t: t["item_categorical"][:, 1:]),
        (("price", TensorProto.FLOAT, ["n"]), lambda t: t["item_dense"][:, 0]),
        (("item_counts", TensorProto.FLOAT, ["n", 3]), lambda t: t["item_dense"][:, 2:]),
        (("item_id", TensorProto.INT32, ["n", 1]), lambda t: t["item_categorical"][:, :1]),
        (("history_genres", TensorProto.INT64, [1, 4, 3]), lambda t: t["history_categorical"][:, :, 1:]),
        (("history_item_id", TensorProto.INT32, ["n", 4]), lambda t: t["history_categorical"][:, :, 0].repeat(3, 0)),
        (("history_mask", TensorProto.FLOAT, [None, "long"]), lambda t: t["history_mask"]),
        (("user_categorical", TensorProto.INT32, ["one", 2]), lambda t: t["user_categorical"]),
    ],
)
def test_input_gets_its_columns(one: Input, expected: Any) -> None:  # noqa: ANN401 - a function of tensors
    tensors = tensors_of(3)
    found = _fed(_graph(ITEM, one), tensors, 3)[one[0]]
    assert found.dtype == helper.tensor_dtype_to_np_dtype(one[1])
    np.testing.assert_array_equal(found, expected(tensors).astype(found.dtype))


@settings(max_examples=15)
@given(candidates=st.integers(1, 9), seed=st.integers(0, 99))
def test_spliced_graph_scores_as_the_graph(
    tmp_path_factory: pytest.TempPathFactory, candidates: int, seed: int
) -> None:
    folder, tensors = tmp_path_factory.mktemp("graphs"), tensors_of(candidates, seed)
    for path in (write_by_feature(folder / "one.onnx"), write_two_tasks(folder / "two.onnx")):
        model = read_model(path)
        bindings, heads = bind_inputs(model, SCHEMA), head_outputs(model, {})
        spliced = spliced_graph(model, bindings, SCHEMA, heads)
        found, expected = _run(spliced, tensors), _run(model, _fed(model, tensors, candidates))
        for one, other in zip(found, expected, strict=True):
            assert one.shape == (candidates,)
            np.testing.assert_array_equal(one, other.reshape(-1))


def test_spliced_graph_has_schema_inputs_and_heads(tmp_path: Path) -> None:
    model = read_model(write_by_feature(tmp_path / "one.onnx"))
    spliced = spliced_graph(model, bind_inputs(model, SCHEMA), SCHEMA, {"pctr": "score"})
    onnx.checker.check_model(spliced, full_check=True)
    shapes = {
        one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*spliced.graph.input, *spliced.graph.output)
    }
    assert shapes == {
        **{spec.name: ["candidates" if spec.side == "item" else 1, *spec.shape] for spec in SCHEMA.tensors},
        "pctr": ["candidates"],
    }


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            [ITEM, ("colour", TensorProto.FLOAT, ["n"])],
            "'colour' is not in the schema, which has age, context_cat",
        ),
        ([("age", TensorProto.FLOAT, [1])], "no item input"),
        ([("price", TensorProto.FLOAT, [7])], r"'price' is of items, and \[7\]: it must take any number"),
        ([("price", TensorProto.FLOAT, [])], r"'price' is of items, and \[\]: it must take any number"),
        ([ITEM, ("price", TensorProto.FLOAT, ["m"])], "two axes of items, 'n' of 'item_dense' and 'm' of 'price'"),
        ([ITEM, ("age", TensorProto.FLOAT, [7, 1])], r"'age' belongs to the user, .* \[7, 1\]"),
        ([ITEM, ("genres", TensorProto.INT64, ["n", 5])], r"'genres' is \['n', 5\]; .* of that name is \['n', 3\]"),
        ([ITEM, ("genres", TensorProto.INT64, ["n"])], r"'genres' is \['n'\]; .* of that name is \['n', 3\]"),
        ([ITEM, ("genres", TensorProto.FLOAT, ["n", 3])], "'genres' is TensorProto.FLOAT; the schema gives int32"),
        ([ITEM, ("price", TensorProto.INT64, ["n"])], "'price' is TensorProto.INT64; the schema gives float32"),
        ([ITEM, ("history_genres", TensorProto.INT64, [1, 9, 3])], r"\[1, 9, 3\]; .* is \[1, 4, 3\]"),
    ],
)
def test_rejects_input_outside_schema(inputs: list[Input], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        bind_inputs(_graph(*inputs), SCHEMA)


@pytest.mark.parametrize(
    ("outputs", "named", "heads"),
    [
        ((("score", ["n", 1]),), {}, {"pctr": "score"}),
        ((("pctr", ["n"]), ("pcvr", ["n"])), {}, {"pctr": "pctr", "pcvr": "pcvr"}),
        ((("pcvr", ["n"]), ("pctr", ["n"])), {}, {"pctr": "pctr", "pcvr": "pcvr"}),
        ((("a", ["n", "of one"]), ("b", [None, 1])), {"sold": "a", "pctr": "b"}, {"pctr": "b", "sold": "a"}),
    ],
)
def test_pctr_is_the_first_head(outputs: Any, named: dict[str, str], heads: dict[str, str]) -> None:  # noqa: ANN401
    found = head_outputs(_graph(ITEM, outputs=outputs), named)
    assert found == heads
    assert next(iter(found)) == "pctr"


@pytest.mark.parametrize(
    ("outputs", "named", "message"),
    [
        (
            (("a", ["n"]), ("b", ["n"])),
            {},
            "none of the outputs a, b is called pctr; say which is it, e.g. --head pctr=a",
        ),
        ((("a", ["n"]),), {"pctr": "c"}, "the head 'pctr' is to be the output 'c'; there are a"),
        ((("a", ["n", 2]),), {}, r"the output 'a' is \['n', 2\]; a head is one number an item"),
        ((("a", ["n", 1, 1]),), {}, "a head is one number an item"),
        ((("a", []),), {}, "a head is one number an item"),
        ((("a", [3]),), {}, r"the output 'a' is \[3\], for 3 items only"),
    ],
)
def test_rejects_output_that_is_not_a_head(outputs: Any, named: dict[str, str], message: str) -> None:  # noqa: ANN401
    with pytest.raises(ExportError, match=message):
        head_outputs(_graph(ITEM, outputs=outputs), named)
