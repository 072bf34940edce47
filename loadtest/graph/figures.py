"""From median times to the figures that are told: ratios, slopes, the share of matrix products. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msd.contract.precision import Precision

Times = Mapping[str, Mapping[int, float]]
"""Microseconds by contestant, by number of candidates."""

TILED, PLAIN, PASSED, TWIN = "tiled", "plain", "passed", "twin"
REFERENCE = "reference"
SHOWN = (200, 1_000)


def floor_of(precision: Precision) -> str:
    """The contestant that is the passed graph's matrix products alone."""
    return f"floor_{precision}"


def graph_in(precision: Precision) -> str:
    """The contestant that is the passed graph in a precision."""
    return PASSED if precision == "fp32" else precision


def leaner_in(name: str, precision: Precision) -> str:
    """The contestant that is a leaner model's passed graph in a precision."""
    return f"{name} {precision}"


@dataclass(frozen=True)
class Measured:
    """Median times of each model's contestants; of the reference model, with one rule off; of a bundle's ranker."""

    models: Mapping[str, Times]
    without_rule: Times
    bundle: Times | None
    fp64_max_diff: float
    precision: Precision
    """The fastest at 200 candidates of those that scored well enough."""


def summarised(measured: Measured) -> dict[str, Any]:
    """All figures, ready for JSON."""
    reference, best = measured.models[REFERENCE], graph_in(measured.precision)
    told: dict[str, Any] = {}
    for name, contestant in (("fp32", PASSED), ("best", best)):
        told |= {f"graph_ratio_{name}_n{count}": ratio(reference, TILED, contestant)[str(count)] for count in SHOWN}
    floors = ratio(reference, best, floor_of(measured.precision))
    return told | {
        "gemm_floor_ratio_best": floors[str(SHOWN[0])],
        "slope_us_fp32": slope(reference[PASSED]),
        "slope_us_best": slope(reference[best]),
        "pass_ratios": {name: ratio(times, PLAIN, PASSED) for name, times in measured.models.items()},
        "twin_ratios": {name: ratio(times, PASSED, TWIN)[str(SHOWN[0])] for name, times in measured.models.items()},
        "fp64_max_diff": measured.fp64_max_diff,
        "precision": measured.precision,
        "gemm_floor_ratios_best": floors,
        "slopes_us": {PASSED: steps(reference[PASSED]), best: steps(reference[best])},
        "rule_ratios": {
            name: ratio(measured.without_rule, name, PASSED) for name in measured.without_rule if name != PASSED
        },
        "bundle_ratios": None if measured.bundle is None else ratio(measured.bundle, PLAIN, PASSED),
        "microseconds": {name: _by_text(times) for name, times in measured.models.items()}
        | {"without_rule": _by_text(measured.without_rule)}
        | ({} if measured.bundle is None else {"bundle": _by_text(measured.bundle)}),
    }


def summarised_leaner(times: Times, name: str, accepted: Sequence[Precision]) -> dict[str, Any]:
    """Figures of a leaner model, in the precisions that the gate accepts, against the reference of the same race."""
    graphs = {precision: leaner_in(name, precision) for precision in accepted}
    best = min(graphs.values(), key=lambda graph: times[graph][SHOWN[0]])
    told: dict[str, Any] = {}
    for kind, graph in (("fp32", graphs["fp32"]), ("best", best)):
        told |= {f"graph_ratio_{kind}_n{count}": ratio(times, TILED, graph)[str(count)] for count in SHOWN}
        told[f"slope_us_{kind}"] = slope(times[graph])
    return told | {
        "precision": next(precision for precision, graph in graphs.items() if graph == best),
        "ratios": {precision: ratio(times, TILED, graph) for precision, graph in graphs.items()},
        "ratios_to_passed": {precision: ratio(times, PASSED, graph) for precision, graph in graphs.items()},
    }


def ratio(times: Times, slow: str, fast: str) -> dict[str, float]:
    """By number of candidates, how often `fast` runs in the time of `slow`."""
    return {str(count): round(times[slow][count] / taken, 4) for count, taken in times[fast].items()}


def slope(times: Mapping[int, float]) -> float:
    """Microseconds a candidate: of the straight line nearest to the times."""
    counts = sorted(times)
    return round(float(np.polyfit(counts, [times[count] for count in counts], 1)[0]), 4)


def steps(times: Mapping[int, float]) -> dict[str, float]:
    """Microseconds a candidate between each number and the next: equal where time is linear."""
    counts: Sequence[int] = sorted(times)
    return {
        f"{few}-{many}": round((times[many] - times[few]) / (many - few), 4)
        for few, many in zip(counts[:-1], counts[1:], strict=True)
    }


def _by_text(times: Times) -> dict[str, dict[str, float]]:
    return {name: {str(count): round(one, 1) for count, one in taken.items()} for name, taken in times.items()}
