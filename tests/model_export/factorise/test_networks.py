"""Whole networks are factorised exactly; the report names what was left of graphs that cannot be split, and why."""

import warnings
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lab.reference.graphs import examples, plain_graph
from lab.reference.inputs import SIDES, random_feeds
from model_export.errors import ExportError
from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove, prove_widest
from model_export.factorise.report import Rule
from msd.contract.schema import Side
from tests.lab.reference.small import SMALL, network
from tests.model_export.factorise.graphs import (
    COUNTS,
    ODD,
    RANKERS,
    Dotted,
    Feeds,
    ItemsToItems,
    Listwise,
    Masked,
    Recurrent,
    Sorted,
    Transformed,
    feeds_of,
    graph_of,
    odd,
    ranker,
    requests,
    sides_of,
    some,
)

USED = {
    "reference": {Rule.USER_MATRIX, Rule.LINEAR, Rule.WEIGHTED_SUM, Rule.GATHER},
    "our msd": {Rule.CONCAT, Rule.LINEAR, Rule.AFFINE},
    "our deepfm": {Rule.BROADCAST, Rule.LINEAR},
    "our dcnv2": {Rule.BROADCAST, Rule.AFFINE},
    "our din": {Rule.USER_MATRIX, Rule.WEIGHTED_SUM},
}


@cache
def _made(name: str) -> tuple[onnx.ModelProto, dict[str, Side], list[Feeds]]:
    if name.startswith("our "):
        model, sides = ranker(name.removeprefix("our "))
        return model, sides, [feeds_of(model, count, seed=count) for count in COUNTS]
    plain = network()
    sides = {name: SIDES[name] for name in plain.inputs}
    return plain_graph(plain, SMALL), sides, [random_feeds(SMALL, count, count) for count in COUNTS]


def _scores(model: onnx.ModelProto, feeds: Feeds) -> "list[np.ndarray[tuple[int], np.dtype[np.float32]]]":
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, {name: feeds[name] for name in names}))


SELECTING = {"our paper": ("TopK",)}


@pytest.mark.parametrize("name", ["reference", *(f"our {name}" for name in RANKERS)])
def test_network_is_factorised_exactly(name: str) -> None:
    model, sides, feeds = _made(name)
    assert prove(model, sides, feeds) <= 1e-12
    passed = factorise(model, sides)
    onnx.checker.check_model(passed.model, full_check=True)
    for feed in feeds:
        for before, after in zip(_scores(model, feed), _scores(passed.model, feed), strict=True):
            np.testing.assert_allclose(after, before, atol=5e-6)
            assert len(before) < 3 or before.std() > 1e-4
    report = passed.report
    assert report.used.keys() >= USED.get(name, set())
    left = {entry.operator for entry in report.entries if entry.left}
    # Around the sums of bags; and each target selects from the history.
    assert left <= ({"Flatten", "Reshape", *SELECTING.get(name, ())} if name.startswith("our ") else set())
    assert passed.model.graph.input == model.graph.input


def test_graph_of_the_newer_exporter_is_split() -> None:
    plain = network()
    inputs = examples(plain, SMALL)
    many = torch.export.Dim("candidates", min=1, max=100_000)
    dims = tuple({0: many} if SIDES[one] == "item" else None for one in plain.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            plain, inputs, dynamo=True, dynamic_shapes=dims, input_names=plain.inputs, verbose=False
        )
    assert program is not None
    model = program.model_proto
    sides = {one: SIDES[one] for one in plain.inputs}
    feeds = [random_feeds(SMALL, count, count) for count in COUNTS]
    assert prove(model, sides, feeds) <= 1e-12
    report = factorise(model, sides).report
    assert report.used.keys() >= USED["reference"]
    assert not any(entry.left for entry in report.entries)


def _left(model: onnx.ModelProto) -> dict[str, str]:
    """By operator, the reason for which the first one was left."""
    entries = factorise(model, sides_of(model)).report.entries
    assert not any("failed" in entry.left for entry in entries)
    return {entry.operator: entry.left for entry in reversed(entries) if entry.left}


@pytest.mark.parametrize("kind", ODD)
def test_odd_network_is_exact(kind: type[nn.Module]) -> None:
    model = odd(kind)
    _left(model)
    prove_widest(model, sides_of(model), requests(model))


@pytest.mark.parametrize("kind", [Dotted, Masked, Recurrent, Sorted, ItemsToItems])
def test_odd_network_is_exact_for_any_history_length(kind: type[nn.Module]) -> None:
    model = odd(kind, any_length=True)
    _left(model)
    for length in (1, 4, 9):
        prove_widest(model, sides_of(model), requests(model, L=length))


def test_report_names_what_is_left() -> None:
    assert _left(odd(Listwise)) == {"Softmax": "a Softmax over the candidates"}
    assert _left(odd(Recurrent)) == {"GRU": "no rule for GRU"}
    assert set(_left(odd(Sorted))) == {"TopK"}
    assert _left(odd(Dotted)) == _left(odd(Transformed)) == {}
    assert Rule.SOFTMAX in factorise(odd(Transformed), sides_of(odd(Transformed))).report.used


def test_fully_masked_history_gives_numbers() -> None:
    model = odd(Masked)
    assert Rule.SOFTMAX in factorise(model, sides_of(model)).report.used
    feeds = requests(model)
    for feed in feeds:
        feed["history"][..., 0] = np.minimum(feed["history"][..., 0], 0)  # every place masked
    assert prove(model, sides_of(model), feeds) <= 1e-12
    for feed in feeds:
        feed["history"][..., 0] = 4  # none
    assert prove(model, sides_of(model), feeds) <= 1e-12


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
    assert factorise(model, sides_of(model)).model is model


def test_custom_operators_are_copied() -> None:
    model = graph_of(
        """g (float[1,4] user, float[N,4] item) => (float[N,2] y) {
            both = Add (user, item) odd = com.microsoft.QuickGelu (both) y = MatMul (odd, w) }""",
        w=some(4, 2),
    )
    model.opset_import.add(domain="com.microsoft", version=1)
    assert _left(model)["QuickGelu"] == "no rule for QuickGelu"
    found = factorise(model, sides_of(model)).model
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
    with pytest.raises(ExportError, match=message):
        factorise(model, sides_of(model))


def test_large_tables_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph_of(
        """g (float[1,3] user, int64[N,2] item) => (float[N,K] y) {
            first = Gather <axis = 1> (item, zero) second = Gather <axis = 1> (item, one)
            left = Gather (table, first) right = Gather (other, second) y = Concat <axis = 1> (left, right, left) }""",
        zero=0,
        one=1,
        table=some(500, 3),
        other=some(600, 3),
    )
    report = factorise(model, sides_of(model)).report
    assert report.used == {Rule.GATHER: 1}
    monkeypatch.setattr("model_export.factorise.gathers.MOST_TABLE_BYTES", 1600 * 3 * 4 - 1)
    report = factorise(model, sides_of(model)).report
    assert report.used == {}


def test_table_under_two_names_stays_one() -> None:
    model = graph_of(
        """g (int64[1,3] user, int64[N] item) => (float[N,3] y) {
            again = Identity (table) rows = Gather (again, user) mean = ReduceMean <keepdims = 0> (rows, one)
            own = Gather (table, item) y = Mul (own, mean) }""",
        table=some(50, 3),
        one=[1],
    )
    made = factorise(model, sides_of(model)).model
    assert [tensor.name for tensor in made.graph.initializer if len(tensor.dims) == 2] == ["table"]
    assert prove(model, sides_of(model), requests(model)) <= 1e-12


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
    assert prove_widest(EXACT[name], sides_of(EXACT[name]), requests(EXACT[name]))[0] <= 1e-12
