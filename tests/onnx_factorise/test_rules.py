"""Each rule fires where it should, changes nothing and can be switched off; the proof finds what is wrong and where."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_factorise import axes, elementwise, gathers, layout, linear, proof
from onnx_factorise.emit import Tensor
from onnx_factorise.errors import FactoriseError
from onnx_factorise.evaluate import Evaluator, as_double
from onnx_factorise.pass_ import Factorised, factorise
from onnx_factorise.proof import prove, prove_widest
from onnx_factorise.report import Rule
from onnx_factorise.values import Affine, Concat, Term
from tests.onnx_factorise.graphs import feeds_of, graph_of, requests, some, two_tables

TILED = """
    count = Shape <start = 0, end = 1> (item)
    shape = Concat <axis = 0> (count, width)
    tiled = Expand (user, shape)
"""
PAIR = "(float[1,3] user, float[N,4] item) => (float[N,K] y)"
ATTENTION = "(float[1,5,4] history, float[N,4] item) => (float[N,K,L] y)"

GRAPHS: dict[Rule, onnx.ModelProto] = {
    Rule.BROADCAST: graph_of(f"g {PAIR} {{ {TILED} y = Concat <axis = 1> (tiled, item) }}", width=[3]),
    Rule.CONCAT: graph_of(f"g {PAIR} {{ {TILED} both = Concat <axis = 1> (tiled, item) y = Relu (both) }}", width=[3]),
    Rule.AFFINE: graph_of(
        f"g {PAIR} {{ sum = Add (item, bias) scaled = Mul (sum, by) less = Sub (scaled, item) y = Div (less, by) }}",
        bias=some(1, 4),
        by=some(1, 4, seed=1),
    ),
    Rule.LINEAR: graph_of(
        f"g {PAIR} {{ {TILED} both = Concat <axis = 1> (tiled, item) y = MatMul (both, w) }}", width=[3], w=some(7, 2)
    ),
    Rule.USER_MATRIX: graph_of(
        f"g {ATTENTION} {{ row = Unsqueeze (item, one) pair = Mul (history, row) y = MatMul (pair, w) }}",
        one=[1],
        w=some(4, 3),
    ),
    Rule.WEIGHTED_SUM: graph_of(
        "g (float[1,5,4] history, float[N,5] item) => (float[N,4] y)"
        "{ weights = Unsqueeze (item, last) each = Mul (weights, history) y = ReduceSum <keepdims = 0> (each, one) }",
        last=[2],
        one=[1],
    ),
    Rule.SOFTMAX: graph_of(
        f"g {PAIR} {{ {TILED} both = Concat <axis = 1> (tiled, item) y = Softmax (both) }}", width=[3]
    ),
    Rule.GATHER: two_tables((5, 6)),
}
EACH = pytest.mark.parametrize("rule", GRAPHS)


@EACH
def test_rule_changes_nothing(rule: Rule) -> None:
    model = GRAPHS[rule]
    report = factorise(model, "N").report
    assert rule in report.used
    assert all(not entry.left for entry in report.entries)
    assert prove(model, "N", requests(model)) <= 1e-12


def _wrong(scope: Any, made: Any) -> Any:  # noqa: ANN401 - whatever a rule makes
    """What a rule made, a thousandth too large."""
    if isinstance(made, Tensor):
        return scope.emit.elementwise("Mul", made, scope.emit.scalar(1.001, made))
    if isinstance(made, Term):
        return Term(_wrong(scope, made.leaf), made.by)
    if isinstance(made, Affine):
        terms = tuple(_wrong(scope, term) for term in made.terms)
        return Affine(made.shape, terms, made.base and _wrong(scope, made.base))
    if isinstance(made, Concat):
        return Concat(made.shape, made.axis, tuple(_wrong(scope, part) for part in made.parts))
    return None if made is None else [made[0], *(_wrong(scope, one) for one in made[1:])]


WHERE: dict[Rule, tuple[Any, str]] = {
    Rule.BROADCAST: (layout, "_expanded"),
    Rule.CONCAT: (elementwise, "_by_parts"),
    Rule.AFFINE: (elementwise, "_arithmetic"),
    Rule.LINEAR: (linear, "_sum"),
    Rule.USER_MATRIX: (linear, "_multiplied"),
    Rule.WEIGHTED_SUM: (axes, "_term"),
    Rule.SOFTMAX: (axes, "_by_shares"),
    Rule.GATHER: (gathers, "_joined"),
}


@EACH
def test_wrong_rule_is_caught(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GRAPHS[rule]
    place, name = WHERE[rule]
    right: Callable[..., Any] = getattr(place, name)

    def wrong(scope: Any, *rest: Any) -> Any:  # noqa: ANN401 - of any of the functions above
        made = right(scope, *rest)
        if rule is Rule.GATHER:  # a joined look-up, by the emitter
            return [_wrong(SimpleNamespace(emit=scope), one) for one in made]
        return _wrong(scope, made)

    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(FactoriseError, match=r"output 'y' differs by \d\.\de[-+]\d\d between the plain and"):
        prove(model, "N", requests(model))


MODEL = graph_of(
    "g (float[1,4] user, float[N,4] item) => (float[N,2] y, float[N,4] z) "
    "{ x = Add (user, item) y = MatMul (x, w) z = Exp (x) }",
    w=some(4, 2),
)


@pytest.mark.parametrize(
    ("output", "tolerance", "message"),
    [
        (
            "e = Exp (x) z = Add (e, tiny)",
            1e-12,
            r"'z' differs by 1.0e-09 between the plain and the factorised graph in double precision \(1 candidates",
        ),
        ("e = Exp (x) z = Div (e, nought)", 1e-12, "output 'z' differs by inf"),
        ("z = Exp (user)", 100.0, r"output 'z' has the shape \(3, 4\), factorised \(1, 4\)"),
    ],
)
def test_wrong_output_is_found(monkeypatch: pytest.MonkeyPatch, output: str, tolerance: float, message: str) -> None:
    assert 0 <= prove(MODEL, "N", requests(MODEL)) < 1e-14
    other = as_double(
        graph_of(
            "g (float[1,4] user, float[N,4] item) => (float[N,2] y, float[A,B] z) "
            f"{{ x = Add (user, item) y = MatMul (x, w) {output} }}",
            w=some(4, 2),
            tiny=1e-9,
            nought=0.0,
        )
    )

    def passed(model: onnx.ModelProto, axis: str) -> Factorised:
        return Factorised(other, factorise(model, axis).report)

    monkeypatch.setattr(proof, "factorise", passed)
    with pytest.raises(FactoriseError, match=message):
        prove(MODEL, "N", requests(MODEL), tolerance=tolerance)
    if "tiny" in output:
        assert prove(MODEL, "N", requests(MODEL), tolerance=1e-8) == pytest.approx(1e-9, rel=1e-3)


def test_equal_infinities_and_nans_do_not_differ() -> None:
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = Log (x) }")
    feeds = {"user": np.zeros((1, 4), np.float32), "item": np.array([[-1, 0, 1, 2]], np.float32)}
    assert prove(model, "N", [feeds]) == 0


def test_every_float_becomes_a_double() -> None:
    model = graph_of(
        """g (float[1,4] user, float[N,4] item) => (float[N,4] y) {
            half = Constant <value_float = 0.5> () rows = Constant <value = float[1,4] {1, 2, 3, 4}> ()
            flags = Greater (item, user) ones = Cast <to = 1> (flags)
            shape = Shape (item) filled = ConstantOfShape <value = float[1] {2.0}> (shape)
            a = Mul (ones, half) b = Add (filled, rows) c = Add (a, b)
            y = LayerNormalization <axis = -1, stash_type = 1> (c, scale) }""",
        scale=some(4),
    )
    before = model.SerializeToString()
    double = as_double(model)
    assert model.SerializeToString() == before
    assert {value.type.tensor_type.elem_type for value in double.graph.input} == {TensorProto.DOUBLE}
    feeds = {name: value.astype(np.float64) for name, value in feeds_of(model, 3).items()}
    (found,) = Evaluator(double, "the graph").run(["y"], feeds)
    assert found.dtype == np.float64
    assert prove(model, "N", requests(model)) <= 1e-12


@pytest.mark.parametrize(
    ("operator", "width"), [("Relu", "fp64"), ("Sigmoid", "fp64"), ("Elu", None), ("Gelu", None), ("Mish", None)]
)
def test_proof_is_in_doubles_if_the_runtime_has_the_kernels(operator: str, width: str | None) -> None:
    model = graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item)"
        f" n = LayerNormalization (x, scale, shift) y = {operator} (n) }}",
        scale=some(4),
        shift=some(4, seed=1),
    )
    model.opset_import[0].version = 20
    worst, found = prove_widest(model, "N", requests(model))
    assert found == (width or found)
    assert worst <= (1e-12 if found == "fp64" else 1e-5)


def test_unknown_in_doubles_is_proved_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[1,4] user, float[N,4] item) => (float[N,4] y) { x = Add (user, item) y = NAME (x) }"
    model, unknown = graph_of(text.replace("NAME", "Exp")), graph_of(text.replace("NAME", "Nobodys"))
    monkeypatch.setattr(proof, "as_double", lambda _: unknown)
    worst, width = prove_widest(model, "N", requests(model))
    assert (worst <= 1e-5, width) == (True, "fp32")


def test_failing_rule_is_reported_and_its_node_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(elementwise, "_arithmetic", failing)
    model = graph_of("g (float[1,4] user, float[N,4] item) => (float[N,4] y) { y = Add (user, item) }")
    report = factorise(model, "N").report
    assert [entry.left for entry in report.entries if entry.left] == ["its rule failed: RuntimeError('out of luck')"]


def test_new_names_differ_from_the_graphs() -> None:
    model = graph_of(
        "g (float[1,4] user, float[N,4] item) => (float[N,2] y) { both = Add (user, item) y = MatMul (both, w) }",
        w=some(4, 2),
    )
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "f/both"
    made = factorise(model, "N").model
    names = [name for node in made.graph.node for name in node.output]
    assert all(name.startswith("ff/") or name == "y" for name in names)
    onnx.checker.check_model(made, full_check=True)


REPORTED = graph_of(
    """g (float[1,3] user, float[N,4] item) => (float[N,2] y) {
        count = Shape <start = 0, end = 1> (item) shape = Concat <axis = 0> (count, width)
        tiled = Expand (user, shape) both = Concat <axis = 1> (tiled, item) wide = MatMul (both, w)
        total = CumSum (wide, axis) y = Relu (total) }""",
    width=[3],
    w=some(7, 2),
    axis=1,
)


def test_report_names_nodes_rules_and_reasons() -> None:
    report = factorise(REPORTED, "N").report
    assert json.loads(json.dumps(report.as_json())) == {
        "nodes": {"before": 7, "after": 6},
        "rules": {"broadcast": 1, "linear": 1},
        "split": [
            {"node": "tiled", "operator": "Expand", "rules": ["broadcast"]},
            {"node": "wide", "operator": "MatMul", "rules": ["linear"]},
        ],
        "left": [{"node": "total", "operator": "CumSum", "left": "no rule for CumSum"}],
    }
