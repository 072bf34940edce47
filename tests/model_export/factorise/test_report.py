"""The report names what was done to each node; new nodes have names of their own."""

import json

import onnx

from model_export.factorise.pass_ import factorise
from tests.model_export.factorise.graphs import graph_of, sides_of, some


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
