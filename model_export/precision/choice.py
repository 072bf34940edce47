"""Choice of a bundle's precision: the requested one if it passes the gate, or the fastest that does.

Times are on one thread, in turns, at the expected number of candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_export.errors import ExportError
from model_export.precision.evidence import CONVERSIONS, Evidence
from model_export.precision.gate import Verdict, judge
from model_export.precision.int8 import check_int8, quantise
from model_export.run import Run, median_microseconds, open_run
from msd.contract.instructions import cpu_instructions
from msd.contract.precision import ConversionFigures, Figures, Precision, PrecisionRecord, Tried
from msd.metrics import Probabilities

Asked = Literal["fp32", "int8", "bf16", "auto"]
# A smaller gain is within the noise, and not worth scores that differ from torch's.
LEAST_GAIN = 1.05


@dataclass(frozen=True)
class Chosen:
    """The graph to serve, its run as in service, and the record of the decision."""

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
    """Choose the precision of an fp32 graph, by its first head (clicks), and by conversions if it has that head.

    Raises ExportError if the requested precision cannot run or be judged here, or fails the gate.
    """
    if asked == "fp32":
        return Chosen(graph, open_run(graph, "fp32", heads), PrecisionRecord())
    wanted: tuple[Precision, ...] = ("int8", "bf16") if asked == "auto" else (asked,)
    if reason := rows.unjudged(heads):
        if asked != "auto":
            raise ExportError(f"{asked}: {reason}; use --precision fp32")
        refused = {precision: Tried(refused=reason) for precision in wanted}
        return Chosen(graph, open_run(graph, "fp32", heads), PrecisionRecord(asked=asked, tried=refused))
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
    scores = _scores(runs, len(heads), rows, progress)
    times = median_microseconds(runs, rows.request(candidates))
    for precision in runs:
        clicks, conversions = _verdicts(rows, heads, scores["fp32"], scores[precision])
        tried[precision] = _tried(clicks, conversions, int(rows.labels.sum()), times[precision])
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
    """Return the requested precision; for auto the fastest that passed, or fp32 if the gain is below 5 %.

    Raises ExportError if the requested precision was refused.
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
    runs: Mapping[Precision, Run], heads: int, rows: Evidence, progress: Callable[[str, int], None]
) -> dict[Precision, Probabilities]:
    """Return the scores [H, n] of the valid rows."""
    scores = {precision: np.zeros((heads, len(rows.labels))) for precision in runs}
    for number, tensors in enumerate(rows.valid()):
        for precision, run in runs.items():
            scores[precision][:, number] = run(tensors)[:, 0]
        progress("Judging precisions", number + 1)
    return scores


def _verdicts(
    rows: Evidence, heads: Sequence[str], plain: Probabilities, other: Probabilities
) -> tuple[Verdict, Verdict | None]:
    """Return the verdicts on clicks, by all valid rows, and on conversions, by those with a click, as they are learned
    and priced. Scores are [H, n]."""
    clicks = judge(rows.labels, rows.users, plain[0], other[0])
    if CONVERSIONS not in heads or rows.conversions is None:
        return clicks, None
    head, clicked = heads.index(CONVERSIONS), rows.labels > 0
    scores = plain[head, clicked], other[head, clicked]
    return clicks, judge(rows.conversions[clicked], rows.users[clicked], *scores, of="conversions")


def _tried(clicks: Verdict, conversions: Verdict | None, clicked: int, microseconds: float) -> Tried:
    reasons = [clicks.refused]
    pcvr = None
    if conversions:
        reasons.append(conversions.refused and f"pcvr: {conversions.refused}")
        pcvr = ConversionFigures(
            **conversions.metrics,
            clicks=clicked,
            auc_worst=conversions.auc_worst,
            logloss_worst=conversions.logloss_worst,
        )
    return Tried(
        figures=Figures(**clicks.metrics, microseconds=microseconds),
        auc_worst=clicks.auc_worst,
        logloss_worst=clicks.logloss_worst,
        pcvr=pcvr,
        refused="; ".join(filter(None, reasons)) or None,
    )
