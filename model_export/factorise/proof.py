"""The proof that the pass changes nothing: both graphs in double precision, where a wrong rule cannot hide in rounding.

In single precision an error of 0.1 % in one rule can be smaller than what rounding does anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.factorise.doubles import as_double
from model_export.factorise.evaluate import Evaluator
from model_export.factorise.pass_ import factorise
from model_export.factorise.rule import ALL_RULES, Rule
from msd.contract.schema import Side

Feeds = Mapping[str, NDArray[Any]]


def prove(
    plain: onnx.ModelProto,
    sides: Mapping[str, Side],
    feeds: Sequence[Feeds],
    rules: frozenset[Rule] = ALL_RULES,
    tolerance: float = 1e-12,
) -> float:
    """The greatest absolute difference of any output over all `feeds`, both graphs being in double precision.

    Feeds should be of several numbers of candidates, 1 and a few hundred among them: one alone proves nothing about
    what is broadcast; inputs that the graph lacks are ignored.

    Raises ExportError with the output and the difference where that is above `tolerance`.
    """
    double = as_double(plain)
    passed = factorise(double, sides, rules).model
    graphs = [Evaluator(double, "the plain graph"), Evaluator(passed, "the factorised graph")]
    names = [value.name for value in plain.graph.output]
    worst = 0.0
    for feed in feeds:
        wide = {name: _wide(feed[name]) for name in sides}
        before, after = (graph.run(names, wide) for graph in graphs)
        for name, expected, found in zip(names, before, after, strict=True):
            worst = max(worst, _difference(name, expected, found, tolerance))
    return worst


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _difference(name: str, expected: NDArray[Any], found: NDArray[Any], tolerance: float) -> float:
    if expected.shape != found.shape:
        raise ExportError(f"output {name!r} has the shape {expected.shape}, factorised {found.shape}")
    equal = (expected == found) | (np.isnan(expected) & np.isnan(found))  # infinities have no difference
    differences = np.where(equal, 0.0, np.abs(np.where(equal, 0.0, expected) - np.where(equal, 0.0, found)))
    worst = float(differences.max(initial=0.0))
    if not worst <= tolerance:
        raise ExportError(
            f"output {name!r} differs by {worst:.1e} between the plain and the factorised graph in double precision "
            f"({len(expected)} candidates); the tolerance is {tolerance:.0e}"
        )
    return worst
