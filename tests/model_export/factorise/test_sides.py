"""A side that is not what a graph's axes say is an error that names the input, never a graph left alone."""

import numpy as np
import onnx
import pytest

from model_export.errors import ExportError
from model_export.factorise.pass_ import factorise
from msd.contract.schema import Side
from tests.model_export.factorise.graphs import graph_of

SIDES: dict[str, Side] = {"user": "user", "item": "item"}


def _graph(inputs: str, output: str = "float[N,4] y", body: str = "y = Add (user, item)") -> onnx.ModelProto:
    return graph_of(f"g ({inputs}) => ({output}) {{ {body} }}", first=[0], one=[1])


@pytest.mark.parametrize(
    ("inputs", "sides", "said"),
    [
        (
            "float[1,4] user, float[7,4] item",
            SIDES,
            "'item' is declared to be the item's, but its first axis is fixed at 7",
        ),
        (
            "float[N,4] user, float[N,4] item",
            SIDES,
            "'user' is declared to be the user's, but its first axis is N, not 1",
        ),
        (
            "float[2,4] user, float[N,4] item",
            SIDES,
            "'user' is declared to be the user's, but its first axis is 2, not 1",
        ),
        (
            "float[N,4] user, float[N,4] item",
            {"user": "context", "item": "item"},
            "'user' is declared to be the context's, but its first axis is N, not 1",
        ),
        (
            "float[1,4] user, float[N,4] item",
            {"user": "item", "item": "item"},
            "'user' is declared to be the item's, but its first axis is fixed at 1",
        ),
        ("float[1,4] user, float[N,4] item", {"item": "item"}, "input 'user' of the graph has no declared side"),
        (
            "float[1,4] user, float[N,4] item",
            {**SIDES, "hour": "context"},
            "side 'context' is declared for 'hour', which is not an input of the graph",
        ),
        (
            "float[M,4] user, float[N,4] item",
            {"user": "item", "item": "item"},
            "two item axes: 'M' of input 'user' and 'N' of input 'item'",
        ),
        ("float[1,4] user, float[1,4] item", {"user": "user", "item": "user"}, "the graph has no item axis"),
        (
            "float[1,N,4] user, float[N,4] item",
            SIDES,
            "'user' of side 'user' has the item axis 'N' as axis 1 too",
        ),
        ("float user, float[N,4] item", SIDES, "'user' is declared to be the user's, but its first axis is missing"),
        ("float[1,4] user, float item", SIDES, "input 'item' is declared to be the item's and has no axes"),
    ],
)
def test_it_is_refused(inputs: str, sides: dict[str, Side], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        factorise(_graph(inputs), sides)


def test_an_unknown_first_axis_of_a_user_is_refused() -> None:
    model = _graph("float[1,4] user, float[N,4] item")
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    with pytest.raises(ExportError, match="'user' is declared to be the user's, but its first axis is unknown, not 1"):
        factorise(model, SIDES)


@pytest.mark.parametrize("body", ["y = ReduceSum (item, first)", "x = Identity (item) y = Relu (user)"])
def test_an_output_without_the_item_axis_is_refused(body: str) -> None:
    model = _graph("float[1,4] user, float[N,4] item", "float[1,4] y", body)
    with pytest.raises(ExportError, match=r"output 'y' has the shape \[1, 4\], without the item axis"):
        factorise(model, SIDES)


def test_an_old_opset_is_refused() -> None:
    model = _graph("float[1,4] user, float[N,4] item")
    model.opset_import[0].version = 13
    with pytest.raises(ExportError, match="the graph is of opset 13; export it with opset 18 or later"):
        factorise(model, SIDES)


def test_the_item_axis_may_have_any_name_or_none() -> None:
    model = _graph("float[1,4] user, float[candidates,4] item", "float[candidates,4] y")
    assert factorise(model, SIDES).report.nodes_after == 1
    for value in (model.graph.input[1], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()
    assert factorise(model, SIDES).report.nodes_after == 1


def test_initializers_need_no_side() -> None:
    model = _graph("float[1,4] user, float[N,4] item", body="x = Add (user, item) y = Mul (x, scale)")
    weight = onnx.numpy_helper.from_array(np.ones((1, 4), np.float32), "scale")
    model.graph.initializer.append(weight)
    model.graph.input.append(onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, (1, 4)))
    assert [value.name for value in factorise(model, SIDES).model.graph.input] == ["user", "item"]
