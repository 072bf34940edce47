"""Choice of the served graph: plain or factorised, whichever is faster at the expected number of candidates.

A factorised graph must first be proved on real rows, in double precision if a runtime supports that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from model_export.errors import ExportError
from model_export.foreign.bind import ITEM_AXIS
from model_export.run import open_run
from msd.contract.tensors import Tensors
from msd.contract.timing import median_microseconds
from onnx_factorise.errors import FactoriseError
from onnx_factorise.pass_ import factorise
from onnx_factorise.proof import Width, prove_widest
from onnx_factorise.report import Report

# One candidate alone proves nothing about broadcasting; the other numbers are odd, small and typical.
PROVED_AT = (1, 3, 50, 200)
# A gain must exceed the difference between two measurements of one graph.
_NOISE = 1.1


@dataclass(frozen=True)
class FastGraph:
    """The graph to serve and its report. `served`: plain, or passed.

    `microseconds`: median run of each graph on one thread at the expected number of candidates, measured in turns.
    """

    graph: bytes
    served: str
    report: Report
    max_diff: float
    proved_in: Width
    candidates: int
    microseconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return its record for the manifest."""
        return {
            "served": self.served,
            "candidates": self.candidates,
            "microseconds": {name: round(value, 1) for name, value in self.microseconds.items()},
            f"{self.proved_in}_max_diff": self.max_diff,
            "nodes": {"plain": self.report.nodes_before, "passed": self.report.nodes_after},
            "rules": {rule.value: count for rule, count in self.report.used.items()},
        }


def fastest_graph(
    graph: bytes,
    candidates: int,
    request: Callable[[int], Tensors],
    served: str | None = None,
) -> FastGraph:
    """Return the faster of the plain and the factorised graph, or the `served` one, if given; `request(n)` returns real
    tensors of n candidates.

    Raises ExportError if the factorised graph does not compute the same.
    """
    plain = onnx.load_from_string(graph)
    heads = [output.name for output in plain.graph.output]
    try:
        worst, width = prove_widest(plain, ITEM_AXIS, [request(count) for count in PROVED_AT])
        passed = factorise(plain, ITEM_AXIS)
    except FactoriseError as error:
        raise ExportError(str(error)) from error
    graphs = {"plain": graph, "passed": passed.model.SerializeToString()}
    runs = {name: open_run(one, "fp32", heads) for name, one in graphs.items()}
    times = median_microseconds(runs, request(candidates))
    served = served or pick(times)
    return FastGraph(graphs[served], served, passed.report, worst, width, candidates, times)


def pick(microseconds: Mapping[str, float]) -> str:
    """Return the plain graph's name, unless the factorised one is faster by more than the measurement noise."""
    return "plain" if microseconds["plain"] <= _NOISE * microseconds["passed"] else "passed"
