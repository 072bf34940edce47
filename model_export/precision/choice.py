"""Chooses a bundle's precision: the requested one if it passes the gate, or the fastest that does. Times on one thread,
in turns, at the expected number of candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_export.errors import ExportError
from model_export.precision.evidence import Evidence
from model_export.precision.gate import Verdict, judge
from model_export.precision.int8 import check_int8, quantise
from model_export.run import Run, median_microseconds, open_run
from msd.contract.instructions import cpu_instructions
from msd.contract.precision import Figures, Precision, PrecisionRecord, Tried
from msd.ranker.metrics import Probabilities

Asked = Literal["fp32", "int8", "bf16", "auto"]
# A smaller gain is within the noise, and not worth scores that differ from torch's.
LEAST_GAIN = 1.05


@dataclass(frozen=True)
class Chosen:
    """The graph to be served, how to run it as it will be, and the record of the decision."""

    graph: bytes
    run: Run
    record: PrecisionRecord


def choose(
    graph: bytes,
    heads: Sequence[str],
    asked: Asked,
    candidates: int,
    rows: Evidence,
    progress: Callable[[str, int], None],
) -> Chosen:
    """The precision for a graph in fp32, judged by its first head: clicks.

    Raises ExportError when the precision asked for cannot be run here or does not pass the gate.
    """
    if asked == "fp32":
        return Chosen(graph, open_run(graph, "fp32", heads), PrecisionRecord())
    wanted: tuple[Precision, ...] = ("int8", "bf16") if asked == "auto" else (asked,)
    graphs: dict[Precision, bytes] = {"fp32": graph}
    runs: dict[Precision, Run] = {"fp32": open_run(graph, "fp32", heads)}
    tried: dict[Precision, Tried] = {}
    for precision in wanted:
        try:
            graphs[precision] = _in_int8(graph, rows) if precision == "int8" else graph
            runs[precision] = open_run(graphs[precision], precision, heads, candidates)
        except ExportError as error:
            if asked != "auto":
                raise
            tried[precision] = Tried(refused=str(error))
    scores = _scores(runs, rows, progress)
    times = median_microseconds(runs, rows.request(candidates))
    for precision in runs:
        verdict = judge(rows.labels, rows.users, scores["fp32"], scores[precision])
        tried[precision] = _tried(verdict, times[precision])
    chosen = pick(asked, tried)
    record = PrecisionRecord(
        asked=asked,
        chosen=chosen,
        candidates=candidates,
        valid_rows=len(rows.labels),
        instructions=cpu_instructions(),
        tried=tried,
    )
    return Chosen(graphs[chosen], runs[chosen], record)


def pick(asked: Asked, tried: Mapping[Precision, Tried]) -> Precision:
    """The precision asked for, or of all that passed the fastest, fp32 unless another gains a twentieth.

    Raises ExportError when the one asked for was refused.
    """
    if asked != "auto":
        if reason := tried[asked].refused:
            raise ExportError(
                f"{asked} does not score as fp32 does on valid rows: {reason}; export with --precision fp32, or auto"
            )
        return asked
    times = {precision: one.figures.microseconds for precision, one in tried.items() if one.figures and not one.refused}
    best = min(times, key=lambda precision: times[precision])
    return best if times["fp32"] >= LEAST_GAIN * times[best] else "fp32"


def _in_int8(graph: bytes, rows: Evidence) -> bytes:
    check_int8(cpu_instructions())
    return quantise(graph, rows.train())


def _scores(
    runs: Mapping[Precision, Run], rows: Evidence, progress: Callable[[str, int], None]
) -> dict[Precision, Probabilities]:
    scores = {precision: np.zeros(len(rows.labels)) for precision in runs}
    for number, tensors in enumerate(rows.valid()):
        for precision, run in runs.items():
            scores[precision][number] = run(tensors)[0, 0]
        progress("Judging precisions", number + 1)
    return scores


def _tried(verdict: Verdict, microseconds: float) -> Tried:
    return Tried(
        figures=Figures(**verdict.metrics, microseconds=microseconds),
        auc_worst=verdict.auc_worst,
        logloss_worst=verdict.logloss_worst,
        refused=verdict.refused,
    )
