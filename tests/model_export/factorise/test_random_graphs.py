"""Whatever operators are put together, both sides mixed: the factorised graph is the plain one."""

import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
