"""Shapes and constants are found whatever way a graph computes them; the report names what was done to each node."""

import json

import onnx
import pytest

from model_export.factorise.facts import Fact, find_facts
from model_export.factorise.pass_ import factorise
from model_export.factorise.shapes import RuleDoesNotApply, broadcast, dim_of, has_items, merged, number, size
from tests.model_export.factorise.graphs import graph_of, sides_of, some


def _facts(body: str, inputs: str = "float[1,4] user, float[N,4] item", **weights: object) -> dict[str, Fact]:
    return find_facts(graph_of(f"g ({inputs}) => (float[A,B] y) {{ {body} }}", **weights), "N")


def test_computed_shapes_are_found() -> None:
    facts = _facts(
        """shape = Shape (item) count = Gather (shape, nought) row = Unsqueeze (count, first)
           asked = Concat <axis = 0> (row, minus) one = ConstantOfShape <value = int64[1] {1}> (two)
           free = Equal (asked, minus_each) real = Where (free, one, asked) tiled = Expand (user, real)
           rows = Reshape (tiled, flat) y = Identity (tiled)""",
        nought=0,
        first=[0],
        minus=[-1],
        minus_each=[-1, -1],
        two=[2],
        flat=[-1],
    )
    assert facts["tiled"].shape == ("N", 4)
    assert facts["rows"].shape == ("N*4",)
    assert facts["real"].lengths == ("N", 1)
    assert facts["real"].value is None
    assert facts["one"].value is not None
    assert facts["tiled"].value is None


def test_value_without_candidates_is_a_constant() -> None:
    facts = _facts("shape = Shape (item) ones = ConstantOfShape <value = float[1] {3}> (shape) y = Add (ones, item)")
    value = facts["ones"].value
    assert value is not None
    assert (value.shape, value.max(), facts["ones"].shape) == ((1, 4), 3, ("N", 4))


def test_other_varying_lengths_differ() -> None:
    facts = _facts(
        "turned = Transpose <perm = [0, 2, 1]> (history) both = MatMul (history, turned) y = Identity (item)",
        "float[1,L,4] history, float[1,M] user, float[N,4] item",
    )
    history, user = facts["history"].shape, facts["user"].shape
    assert history is not None
    assert user is not None
    assert history[1] != user[1]
    assert not has_items(history)
    assert facts["both"].shape == (1, history[1], history[1])


@pytest.mark.parametrize(
    ("body", "item", "shapes"),
    [
        ("y = Div (seven, item)", "int64[N,4]", {"y": ("N", 4)}),  # although it may divide by 0
        ("y = Gather (table, item)", "int64[N]", {"y": ("N", 3)}),
        (
            "places = NonZero (item) y = Cast <to = 1> (places)",
            "float[N,4]",
            {"places": None, "y": None, "item": ("N", 4)},
        ),
    ],
)
def test_shape_of_value(body: str, item: str, shapes: dict[str, object]) -> None:
    facts = _facts(body, f"float[1,4] user, {item} item", seven=[7], table=some(1, 3))
    assert {name: facts[name].shape for name in shapes} == shapes


def test_unset_length_is_not_zero() -> None:
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { y = Relu (item) }")
    model.graph.input[1].type.tensor_type.shape.dim[1].Clear()
    shape = find_facts(model, "N")["item"].shape
    assert shape is not None
    assert isinstance(shape[1], str)


def test_new_names_differ_from_the_graphs() -> None:
    model = graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,2] y) { both = Add (user, item) y = MatMul (both, w) }",
        w=some(4, 2),
    )
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "f/both"
    made = factorise(model, sides_of(model)).model
    names = [name for node in made.graph.node for name in node.output]
    assert all(name.startswith("ff/") or name == "y" for name in names)
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize(
    ("observed", "dim"),
    [
        ((4, 4, 4), 4),
        ((5, 7, 11), "N"),
        ((15, 21, 33), "N*3"),
        ((6, 8, 12), "N?6,8,12"),
        ((25, 49, 121), "N?25,49,121"),
        ((17, 17, 17, 37), "free 17,17,17,37"),
    ],
)
def test_axis_of_observed_lengths(observed: tuple[int, ...], dim: int | str) -> None:
    assert dim_of(observed, (5, 7, 11, 7)[: len(observed)]) == dim


def test_arithmetic_of_shapes() -> None:
    assert broadcast(("N", 1, 4), (3, 1)) == ("N", 3, 4)
    assert merged(("N", 3, 2)) == "N*6"
    assert merged((2, 3)) == 6
    assert size((2, 3)) == 6
    for wrong in (lambda: broadcast(("N", 2), (3,)), lambda: number("N"), lambda: merged(("N", "N"))):
        with pytest.raises(RuleDoesNotApply):
            wrong()


MODEL = graph_of(
    """g (float[1,3] user, float[N,4] item) => (float[N,2] y) {
        count = Shape <start = 0, end = 1> (item) shape = Concat <axis = 0> (count, width)
        tiled = Expand (user, shape) both = Concat <axis = 1> (tiled, item) wide = MatMul (both, w)
        total = CumSum (wide, axis) y = Relu (total) }""",
    width=[3],
    w=some(7, 2),
    axis=1,
)


def test_report_names_nodes_rules_and_reasons() -> None:
    report = factorise(MODEL, sides_of(MODEL)).report
    document = json.loads(json.dumps(report.as_json()))
    assert document == {
        "nodes": {"before": 7, "after": 5},
        "rules": {"broadcast": 1, "affine": 1, "linear": 1},
        "split": [
            {"node": "tiled", "operator": "Expand", "rules": ["broadcast"]},
            {"node": "wide", "operator": "MatMul", "rules": ["linear", "affine"]},
        ],
        "left": [{"node": "total", "operator": "CumSum", "left": "no rule for CumSum"}],
    }
