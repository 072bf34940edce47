"""The graph that is served: the plain one or the one after the factorising pass, whichever runs faster where it counts.

The pass has to prove itself first, in double precision and on real rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import onnx

from model_export.factorise.pass_ import factorise
from model_export.factorise.proof import prove
from model_export.factorise.report import Report
from model_export.run import median_microseconds, open_run
from msd.contract.assemble import Tensors
from msd.contract.schema import FeatureSchema

# 1 alone proves nothing about what is broadcast; the others are odd, small and as many as a request has.
PROVED_AT = (1, 3, 50, 200)
_NOISE = 1.1


@dataclass(frozen=True)
class FastGraph:
    """The graph to serve. microseconds: the median run of each on one thread at so many candidates, in turns."""

    graph: bytes
    report: Report
    fp64_max_diff: float
    candidates: int
    microseconds: dict[str, float]

    @property
    def is_passed(self) -> bool:
        """Whether it is the graph after the pass: unless the plain one is faster by more than a measurement's noise."""
        return self.microseconds["passed"] <= _NOISE * self.microseconds["plain"]

    def as_json(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "served": "passed" if self.is_passed else "plain",
            "candidates": self.candidates,
            "microseconds": {name: round(value, 1) for name, value in self.microseconds.items()},
            "fp64_max_diff": self.fp64_max_diff,
            "nodes": {"plain": self.report.nodes_before, "passed": self.report.nodes_after},
            "rules": {rule.value: count for rule, count in self.report.used.items()},
        }


def fastest_graph(graph: bytes, schema: FeatureSchema, candidates: int, request: Callable[[int], Tensors]) -> FastGraph:
    """The faster of the graph and what the pass makes of it; `request(n)` gives real tensors of n candidates.

    Raises ExportError where the pass does not compute the same.
    """
    plain = onnx.load_from_string(graph)
    sides = {spec.name: spec.side for spec in schema.tensors}
    heads = [output.name for output in plain.graph.output]
    worst = prove(plain, sides, [request(count) for count in PROVED_AT])
    factorised = factorise(plain, sides)
    graphs = {"plain": graph, "passed": factorised.model.SerializeToString()}
    runs = {name: open_run(one, "fp32", heads) for name, one in graphs.items()}
    times = median_microseconds(runs, request(candidates))
    fast = FastGraph(graphs["passed"], factorised.report, worst, candidates, times)
    return fast if fast.is_passed else replace(fast, graph=graph)
