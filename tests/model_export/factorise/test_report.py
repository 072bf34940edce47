"""The report says of each node what was done to it, in words that a command can print."""

import json

from model_export.factorise.pass_ import factorise
from model_export.factorise.rule import Rule
from tests.model_export.factorise.graphs import graph_of, sides_of, some

MODEL = graph_of(
    """g (float[1,3] user, float[N,4] item) => (float[N,2] y) {
        count = Shape <start = 0, end = 1> (item) shape = Concat <axis = 0> (count, width)
        tiled = Expand (user, shape) both = Concat <axis = 1> (tiled, item) wide = MatMul (both, w)
        total = CumSum (wide, axis) y = Relu (total) }""",
    width=[3],
    w=some(7, 2),
    axis=1,
)


def test_it_names_nodes_rules_and_reasons() -> None:
    report = factorise(MODEL, sides_of(MODEL)).report
    said = json.loads(json.dumps(report.as_json()))
    assert said == {
        "nodes": {"before": 7, "after": 4},
        "copied_table_bytes": 0,
        "rules": {"broadcast": 1, "affine": 1, "linear": 1, "bias": 1},
        "split": [
            {"node": "tiled", "operator": "Expand", "rules": ["broadcast"]},
            {"node": "wide", "operator": "MatMul", "rules": ["linear", "affine"]},
            {"node": "total", "operator": "CumSum", "rules": ["bias"], "left": "no rule for CumSum"},
        ],
        "left": [{"node": "total", "operator": "CumSum", "rules": ["bias"], "left": "no rule for CumSum"}],
    }


def test_what_needed_no_rule_is_not_listed() -> None:
    report = factorise(MODEL, sides_of(MODEL), frozenset()).report
    assert report.used == {}
    assert [entry.operator for entry in report.entries] == ["CumSum"]


def test_rules_are_counted_by_nodes() -> None:
    report = factorise(MODEL, sides_of(MODEL), frozenset({Rule.BROADCAST})).report
    assert report.used == {Rule.BROADCAST: 1}
