"""Whatever operators are put together, both sides mixed: the factorised graph is the plain one."""

import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from model_export.errors import ExportError
from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove
from model_export.factorise.report import Rule
from tests.model_export.factorise.graphs import feeds_of, sides_of
from tests.model_export.factorise.random_graphs import models


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=models(), rules=st.frozensets(st.sampled_from(sorted(Rule))), all_of_them=st.booleans())
def test_random_graph_is_factorised_exactly(model: onnx.ModelProto, rules: frozenset[Rule], all_of_them: bool) -> None:
    chosen = frozenset(Rule) if all_of_them else rules
    report = factorise(model, sides_of(model), chosen).report
    assert not any("failed" in entry.left for entry in report.entries)
    feeds = [feeds_of(model, candidates, seed=1) for candidates in (1, 2, 5)]
    assert prove(model, sides_of(model), feeds, chosen, tolerance=1e-10) <= 1e-10


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models())
def test_random_graph_is_exact_for_any_history_length(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name in ("history", "mask", "column"):
            value.type.tensor_type.shape.dim[1].dim_param = "L"
    try:
        report = factorise(model, sides_of(model)).report
    except ExportError as error:  # the graph itself is of one length only
        assume("the graph cannot be" not in str(error))
        raise
    assert not any("failed" in entry.left for entry in report.entries)
    feeds = [feeds_of(model, 2, seed=1, L=length) for length in (37, 41)]
    assert prove(model, sides_of(model), feeds, tolerance=1e-10) <= 1e-10
