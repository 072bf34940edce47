"""Whole networks are factorised exactly; the report names what was left of graphs that cannot be split, and why."""

import numpy as np
import onnx
import pytest
from torch import nn

from onnx_factorise.errors import FactoriseError
from onnx_factorise.pass_ import factorise
from onnx_factorise.proof import prove, prove_widest
from onnx_factorise.report import Rule
from tests.onnx_factorise.graphs import (
    ODD,
    Dotted,
    ItemsToItems,
    Listwise,
    Masked,
    Recurrent,
    Sorted,
    Transformed,
    graph_of,
    odd,
    requests,
    some,
    two_tables,
)


def _left(model: onnx.ModelProto) -> dict[str, str]:
    """By operator, the reason for which the first one was left."""
    entries = factorise(model, "N").report.entries
    assert not any("failed" in entry.left for entry in entries)
    return {entry.operator: entry.left for entry in reversed(entries) if entry.left}


@pytest.mark.parametrize("kind", ODD)
def test_odd_network_is_exact(kind: type[nn.Module]) -> None:
    model = odd(kind)
    _left(model)
    prove_widest(model, "N", requests(model))


@pytest.mark.parametrize("kind", [Dotted, Masked, Recurrent, Sorted, ItemsToItems])
def test_odd_network_is_exact_for_any_history_length(kind: type[nn.Module]) -> None:
    model = odd(kind, any_length=True)
    _left(model)
    for length in (1, 4, 9):
        prove_widest(model, "N", requests(model, L=length))


def test_report_names_what_is_left() -> None:
    assert _left(odd(Listwise)) == {"Softmax": "a Softmax over the candidates"}
    assert _left(odd(Recurrent)) == {"GRU": "no rule for GRU"}
    assert set(_left(odd(Sorted))) == {"TopK"}
    assert _left(odd(Dotted)) == _left(odd(Transformed)) == {}
    assert Rule.SOFTMAX in factorise(odd(Transformed), "N").report.used


def test_fully_masked_history_gives_numbers() -> None:
    model = odd(Masked)
    assert Rule.SOFTMAX in factorise(model, "N").report.used
    feeds = requests(model)
    for feed in feeds:
        feed["history"][..., 0] = np.minimum(feed["history"][..., 0], 0)  # every place masked
    assert prove(model, "N", feeds) <= 1e-12
    for feed in feeds:
        feed["history"][..., 0] = 4  # none
    assert prove(model, "N", feeds) <= 1e-12


def test_graph_with_subgraphs_is_left_whole() -> None:
    model = graph_of(
        """g (float[1,4] user, float[N,4] item) => (float[N,4] y) {
            total = ReduceSum <keepdims = 0> (user, one) large = Greater (total, nought) flag = Squeeze (large)
            y = If (flag) <then_branch = a () => (float[N,4] p) { p = Mul (item, user) },
                           else_branch = b () => (float[N,4] q) { q = Sub (user, item) }> }""",
        one=[1],
        nought=0.0,
    )
    assert _left(model) == {"graph": "left as it was: it has subgraphs"}
    assert factorise(model, "N").model is model


def test_custom_operators_are_copied() -> None:
    model = graph_of(
        """g (float[1,4] user, float[N,4] item) => (float[N,2] y) {
            both = Add (user, item) odd = com.microsoft.QuickGelu (both) y = MatMul (odd, w) }""",
        w=some(4, 2),
    )
    model.opset_import.add(domain="com.microsoft", version=1)
    assert _left(model)["QuickGelu"] == "no rule for QuickGelu"
    found = factorise(model, "N").model
    assert [node.op_type for node in found.graph.node][:3] == ["Add", "QuickGelu", "MatMul"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = Add (user, item) y = Magic (x)", "the graph cannot be loaded: .*Magic"),
        ("x = Add (user, item) y = Add (x, w)", "the graph cannot be loaded: .*Incompatible dimensions"),
    ],
)
def test_graph_that_cannot_run_is_an_error(body: str, message: str) -> None:
    model = graph_of(f"g (float[1,4] user, float[N,4] item) => (float[N,4] y) {{ {body} }}", w=some(5))
    with pytest.raises(FactoriseError, match=message):
        factorise(model, "N")


def test_large_tables_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_tables((500, 600))
    report = factorise(model, "N").report
    assert report.used == {Rule.GATHER: 1}
    monkeypatch.setattr("onnx_factorise.gathers.MOST_TABLE_BYTES", 1600 * 3 * 4 - 1)
    report = factorise(model, "N").report
    assert report.used == {}


def test_table_under_two_names_stays_one() -> None:
    model = graph_of(
        """g (int64[1,3] user, int64[N] item) => (float[N,3] y) {
            again = Identity (table) rows = Gather (again, user) mean = ReduceMean <keepdims = 0> (rows, one)
            own = Gather (table, item) y = Mul (own, mean) }""",
        table=some(50, 3),
        one=[1],
    )
    made = factorise(model, "N").model
    assert [tensor.name for tensor in made.graph.initializer if len(tensor.dims) == 2] == ["table"]
    assert prove(model, "N", requests(model)) <= 1e-12


EXACT = {
    "an operator without its second input": graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { low = Clip (item, , nought) y = Add (low, user) }",
        nought=0.0,
    ),
    "a shape that depends on contents": graph_of(
        """g (float[1,4] user, float[N,4] item) => (float[N,4] y) {
            places = NonZero (user) row = Transpose (places) picked = GatherND (user, row)
            total = ReduceSum <keepdims = 0> (picked) y = Mul (item, total) }"""
    ),
    "tiled indices": graph_of(
        """g (float[1,2] user, int64[N,1] item) => (float[N,6] y) {
            tiled = Expand (item, three) a = Gather <axis = 1> (tiled, nought) b = Gather <axis = 1> (tiled, one)
            c = Gather <axis = 1> (tiled, two) d = Gather (first, a) e = Gather (second, b) f = Gather (first, c)
            y = Concat <axis = 1> (d, e, f) }""",
        three=[1, 3],
        nought=0,
        one=1,
        two=2,
        first=some(5, 2),
        second=some(6, 2),
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_odd_graph_is_exact(name: str) -> None:
    assert prove_widest(EXACT[name], "N", requests(EXACT[name]))[0] <= 1e-12
