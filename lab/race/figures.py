"""Reported figures from median times: ratios, slopes, the share of matrix products. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from msd.contract.precision import Precision

Times = Mapping[str, Mapping[int, float]]
"""Microseconds by contestant and number of candidates."""

TILED, PLAIN, PASSED, TWIN = "tiled", "plain", "passed", "twin"
REFERENCE = "reference"
SHOWN = (200, 1_000)
LOWER: tuple[Precision, ...] = ("int8", "bf16")
Form = Precision | Literal["fp32_openvino"]
"""How a graph is served: in a precision on its own runtime, or in fp32 on OpenVINO, if so configured."""
Name = TypeVar("Name", bound=str)
OPENVINO: Form = "fp32_openvino"


class Timed(NamedTuple):
    """Median times of a race's contestants: in turns with all others, and each in blocks of its own."""

    turns: Times
    blocks: Times


def floor_of(precision: Form) -> str:
    """Return the name of the contestant that is the passed graph's matrix products alone."""
    return f"floor_{precision}"


def graph_in(form: Form) -> str:
    """Return the name of the contestant that is the passed graph in a form."""
    return PASSED if form == "fp32" else form


def leaner_in(name: str, form: Form) -> str:
    """Return the name of the contestant that is a leaner model's passed graph in a form."""
    return f"{name} {form}"


@dataclass(frozen=True)
class RaceFigures:
    """Times of each model's contestants, of the reference model without each rule, and of a bundle's ranker."""

    models: Mapping[str, Timed]
    without_rule: Timed
    bundle: Timed | None
    fp64_max_diff: float
    precision: Precision
    """The fastest at 200 candidates, in blocks of its own, of those that scored well enough."""


def summarised(measured: RaceFigures) -> dict[str, Any]:
    """Return all figures, ready for JSON. Ratios are of times in turns, except those under `in_blocks`."""
    best, floor = graph_in(measured.precision), floor_of(measured.precision)
    turns = {name: timed.turns for name, timed in measured.models.items()}
    reference, without_rule = turns[REFERENCE], measured.without_rule.turns
    races = {**measured.models, "without_rule": measured.without_rule}
    if measured.bundle is not None:
        races["bundle"] = measured.bundle
    return {
        **_headline(reference, best, floor),
        "in_blocks": _headline(measured.models[REFERENCE].blocks, best, floor),
        "pass_ratios": {name: ratio(times, PLAIN, PASSED) for name, times in turns.items()},
        "twin_ratios": {name: ratio(times, PASSED, TWIN)[str(SHOWN[0])] for name, times in turns.items()},
        "fp64_max_diff": measured.fp64_max_diff,
        "precision": measured.precision,
        "slopes_us": {PASSED: steps(reference[PASSED]), best: steps(reference[best])},
        "rule_ratios": {name: ratio(without_rule, name, PASSED) for name in without_rule if name != PASSED},
        "bundle_ratios": None if measured.bundle is None else ratio(measured.bundle.turns, PLAIN, PASSED),
        "microseconds": {name: by_text(timed.turns) for name, timed in races.items()},
        "microseconds_in_blocks": {name: by_text(timed.blocks) for name, timed in races.items()},
    }


def _headline(reference: Times, best: str, floor: str) -> dict[str, Any]:
    floors = ratio(reference, best, floor)
    return {
        **_against_tiled(reference, PASSED, best),
        "gemm_floor_ratio_best": floors[str(SHOWN[0])],
        "gemm_floor_ratios_best": floors,
    }


def _against_tiled(times: Times, fp32: str, best: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for kind, graph in (("fp32", fp32), ("best", best)):
        told |= {f"graph_ratio_{kind}_n{count}": ratio(times, TILED, graph)[str(count)] for count in SHOWN}
        told[f"slope_us_{kind}"] = slope(times[graph])
    return told


def fastest(blocks: Times, graphs: Mapping[Precision, str]) -> Precision:
    """Return the precision whose graph is fastest at 200 candidates, in blocks of its own."""
    return min(graphs, key=lambda precision: blocks[graphs[precision]][SHOWN[0]])


def summarised_leaner(timed: Timed, name: str, accepted: Sequence[Precision]) -> dict[str, Any]:
    """Return a leaner model's figures, in the accepted precisions, against the reference of the same race."""
    graphs = {precision: leaner_in(name, precision) for precision in accepted}
    best, fp32 = fastest(timed.blocks, graphs), graphs["fp32"]
    return {
        **_against_tiled(timed.turns, fp32, graphs[best]),
        "in_blocks": _against_tiled(timed.blocks, fp32, graphs[best]),
        "precision": best,
        "ratios": {precision: ratio(timed.turns, TILED, graph) for precision, graph in graphs.items()},
        "ratios_to_passed": {precision: ratio(timed.turns, PASSED, graph) for precision, graph in graphs.items()},
    }


def ratio(times: Times, slow: str, fast: str) -> dict[str, float]:
    """Return how many times `fast` runs in the time of `slow`, by number of candidates."""
    return {str(count): round(times[slow][count] / taken, 4) for count, taken in times[fast].items()}


def slope(times: Mapping[int, float]) -> float:
    """Return microseconds per candidate: the slope of the least-squares line."""
    counts = sorted(times)
    return round(float(np.polyfit(counts, [times[count] for count in counts], 1)[0]), 4)


def steps(times: Mapping[int, float]) -> dict[str, float]:
    """Return microseconds per candidate between each number and the next: equal if time is linear."""
    counts: Sequence[int] = sorted(times)
    return {
        f"{few}-{many}": round((times[many] - times[few]) / (many - few), 4)
        for few, many in zip(counts[:-1], counts[1:], strict=True)
    }


def by_text(times: Mapping[Name, Mapping[int, float]]) -> dict[Name, dict[str, float]]:
    """Return rounded times, with numbers of candidates as JSON keys."""
    return {name: {str(count): round(one, 1) for count, one in taken.items()} for name, taken in times.items()}
