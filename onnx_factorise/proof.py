"""Proof that the pass changes nothing: both graphs in double precision, where rounding cannot hide a wrong rule.

In single precision an error of 0.1 % in one rule can be smaller than normal rounding. It is used only for a graph that
nothing runs in double precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_factorise.errors import CannotRun, FactoriseError
from onnx_factorise.evaluate import Evaluator, as_double
from onnx_factorise.facts import real_inputs
from onnx_factorise.pass_ import factorise

Feeds = Mapping[str, NDArray[Any]]
Width = Literal["fp64", "fp32"]
_TOLERANCES: Mapping[Width, float] = {"fp64": 1e-12, "fp32": 1e-5}
_SAID: Mapping[Width, str] = {"fp64": "double", "fp32": "single"}


def prove(
    plain: onnx.ModelProto,
    axis: str,
    feeds: Sequence[Feeds],
    tolerance: float | None = None,
    width: Width = "fp64",
) -> float:
    """Return the greatest absolute difference of any output over all `feeds`, with both graphs in one precision.

    Feeds should have several numbers of candidates, including 1 and a few hundred: a single number proves nothing about
    broadcasting. Inputs that the graph lacks are ignored.

    Raises FactoriseError, with the output and the difference, above the tolerance (default: 1e-12 in double precision,
    1e-5 in single), and CannotRun if nothing runs the graph.
    """
    before_pass = as_double(plain) if width == "fp64" else plain
    passed = factorise(before_pass, axis).model
    graphs = [Evaluator(before_pass, "the plain graph"), Evaluator(passed, "the factorised graph")]
    tolerance = _TOLERANCES[width] if tolerance is None else tolerance
    inputs, names = real_inputs(plain.graph), [value.name for value in plain.graph.output]
    worst = 0.0
    for feed in feeds:
        given = {value.name: feed[value.name] for value in inputs}
        wide = {name: _wide(array) for name, array in given.items()} if width == "fp64" else given
        before, after = (graph.run(names, wide) for graph in graphs)
        for name, expected, found in zip(names, before, after, strict=True):
            worst = max(worst, _difference(name, expected, found, tolerance, width))
    return worst


def prove_widest(plain: onnx.ModelProto, axis: str, feeds: Sequence[Feeds]) -> tuple[float, Width]:
    """Prove in double precision, or in single if no runtime has all operators in doubles."""
    try:
        return prove(plain, axis, feeds), "fp64"
    except CannotRun:
        return prove(plain, axis, feeds, width="fp32"), "fp32"


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _difference(name: str, expected: NDArray[Any], found: NDArray[Any], tolerance: float, width: Width) -> float:
    if expected.shape != found.shape:
        raise FactoriseError(f"output {name!r} has the shape {expected.shape}, factorised {found.shape}")
    equal = (expected == found) | (np.isnan(expected) & np.isnan(found))  # infinities have no difference
    differences = np.where(equal, 0.0, np.abs(np.where(equal, 0.0, expected) - np.where(equal, 0.0, found)))
    worst = float(differences.max(initial=0.0))
    if not worst <= tolerance:
        raise FactoriseError(
            f"output {name!r} differs by {worst:.1e} between the plain and the factorised graph in {_SAID[width]} "
            f"precision ({len(expected)} candidates); the tolerance is {tolerance:.0e}"
        )
    return worst
