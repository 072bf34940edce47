"""Each rule fires where it should, changes nothing, can be switched off, and is caught when it is wrong."""

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from model_export.errors import ExportError
from model_export.factorise import axes, elementwise, gathers, layout, linear, matmul
from model_export.factorise.emit import Emitter, Tensor
from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove
from model_export.factorise.report import ALL_RULES, Rule
from model_export.factorise.scope import Scope
from model_export.factorise.values import Affine, Concat, Term
from tests.model_export.factorise.graphs import graph_of, requests, sides_of, some

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
    Rule.LOW_RANK: graph_of(
        f"""g (float[1,9] user, float[N,4] item) => (float[N,2] y) {{
            {TILED} x = Concat <axis = 1> (tiled, item)
            narrow = MatMul (x, down) wide = MatMul (narrow, up) biased = Add (wide, bias)
            crossed = Mul (x, biased) y = MatMul (crossed, next) }}""",
        width=[9],
        down=some(13, 2),
        up=some(2, 13),
        bias=some(13),
        next=some(13, 2, seed=1),
    ),
    Rule.HEADS: graph_of(
        "g (float[1,2,4,5] keys, float[N,2,1,4] item) => (float[N,2,1,5] y) { y = MatMul (item, keys) }"
    ),
    Rule.BIAS: graph_of(f"g {PAIR} {{ wide = MatMul (item, w) y = Add (wide, bias) }}", w=some(4, 3), bias=some(3)),
    Rule.GATHER: graph_of(
        """g (float[1,3] user, int64[N,2] item) => (float[N,K] y) {
            first = Gather <axis = 1> (item, zero) second = Gather <axis = 1> (item, one)
            left = Gather (table, first) right = Gather (other, second) y = Concat <axis = 1> (left, right, left) }""",
        zero=0,
        one=1,
        table=some(5, 3),
        other=some(6, 3),
    ),
}
EACH = pytest.mark.parametrize("rule", GRAPHS)


@EACH
def test_rule_applies_and_changes_nothing(rule: Rule) -> None:
    model = GRAPHS[rule]
    report = factorise(model, sides_of(model)).report
    assert rule in report.used
    assert all(not entry.left for entry in report.entries)
    assert prove(model, sides_of(model), requests(model)) <= 1e-12


@EACH
def test_rule_can_be_switched_off(rule: Rule) -> None:
    model = GRAPHS[rule]
    assert rule not in factorise(model, sides_of(model), ALL_RULES - {rule}).report.used
    for rules in (ALL_RULES - {rule}, frozenset({rule}), frozenset[Rule]()):
        assert prove(model, sides_of(model), requests(model), rules) <= 1e-12


def _wrong(scope: Scope, made: Any) -> Any:  # noqa: ANN401 - whatever a rule makes
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
    Rule.LOW_RANK: (linear, "composed"),
    Rule.HEADS: (matmul, "_heads"),
    Rule.BIAS: (Scope, "with_bias"),
    Rule.GATHER: (gathers, "_offset"),
}


@EACH
def test_wrong_rule_is_caught(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GRAPHS[rule]
    place, name = WHERE[rule]
    right: Callable[..., Any] = getattr(place, name)

    def wrong(scope: Any, *rest: Any) -> Any:  # noqa: ANN401 - of any of the functions above
        made = right(scope, *rest)
        if rule is Rule.GATHER:  # places of a table, one row too far back
            emit: Emitter = scope
            return emit.elementwise("Sub", made, emit.constant(made.dtype.type(1)))
        return _wrong(scope, made)

    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(ExportError, match=r"output 'y' differs by \d\.\de[-+]\d\d between the plain and"):
        prove(model, sides_of(model), requests(model))


def test_sum_weighted_by_constants_stays_a_sum() -> None:
    curve = graph_of(
        "g (float[1,3] user, float[N,4] item) => (float[N,1] y)"
        "{ below = Relu (item) each = Mul (below, slopes) y = ReduceSum <keepdims = 1> (each, one) }",
        slopes=some(4),
        one=[1],
    )
    passed = factorise(curve, sides_of(curve)).model
    assert [node.op_type for node in passed.graph.node] == ["Relu", "Mul", "ReduceSum"]
    assert prove(curve, sides_of(curve), requests(curve)) <= 1e-12
