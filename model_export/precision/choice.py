"""Choice of a bundle's precision: the requested one if it passes the gate, or the fastest that does.

The gate compares with fp32 on the same rows. AUC and logloss pass only if the worse end of the paired 95 % interval
over users is within its bound; with too few rows, fp32 stays. Times are on one thread, in turns, at the expected number
of candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from model_export.precision.evidence import CONVERSIONS, Evidence
from model_export.precision.int8 import check_int8, quantise
from model_export.run import Run, open_run
from msd.bootstrap import interval, resample_metrics
from msd.contract.instructions import cpu_instructions
from msd.contract.precision import ConversionFigures, Figures, Precision, PrecisionRecord, Tried, fastest
from msd.contract.timing import median_microseconds
from msd.metrics import CalibrationBin, Labels, Probabilities, calibration, expected_calibration_error, measure_pooled

# 1/15 of the AUC that a teacher's knowledge gains on MovieLens-100K (.0076), 1/20 of the logloss (.0105).
AUC_BOUND = 0.0005
LOGLOSS_BOUND = 0.0005
# 1/10 of a calibrated model's ECE on MovieLens-100K's test rows (.020).
ECE_BOUND = 0.002
# Bids are multiplied by pCTR: total spend may change by half a percent.
RATIO_BOUND = 0.005
_LEAST_USERS = 30


class Verdict(NamedTuple):
    """Metrics by name, how much worse AUC and logloss may be, and why the precision is refused, if it is."""

    metrics: dict[str, float]
    auc_worst: float | None
    logloss_worst: float | None
    refused: str | None


def judge(
    labels: Labels, users: NDArray[np.int64], plain: Probabilities, other: Probabilities, of: str = "clicks"
) -> Verdict:
    """Compare `other` [n] with fp32's `plain` [n] on n rows of `users` [n], which hold both labels. `of`: what is
    predicted."""
    before, after = measure_pooled(labels, plain), measure_pooled(labels, other)
    # With too few users, rows are resampled.
    groups = users if len(np.unique(users)) >= _LEAST_USERS else np.arange(len(labels))
    drawn = resample_metrics(labels, np.stack([plain, other]), groups)
    auc_worst = _worst(drawn.auc[0] - drawn.auc[1])
    logloss_worst = _worst(drawn.logloss[1] - drawn.logloss[0])
    after["ece"] = expected_calibration_error(_in_bins_of(plain, labels, other))
    ece = after["ece"] - before["ece"]
    ratio = abs(after["predicted_over_observed"] - before["predicted_over_observed"])
    checks = (
        ("AUC may be lower", auc_worst, AUC_BOUND),
        ("logloss may be higher", logloss_worst, LOGLOSS_BOUND),
        ("ECE is higher", ece, ECE_BOUND),
        (f"predicted over observed {of} moves", ratio, RATIO_BOUND),
    )
    # Not `>`: NaN must not pass.
    failed = [f"{what} by {found:.5f}, more than {bound}" for what, found, bound in checks if not found <= bound]
    kept = {name: after[name] for name in ("auc", "logloss", "ece", "predicted_over_observed")}
    return Verdict(kept, _finite(auc_worst), _finite(logloss_worst), "; ".join(failed) or None)


def _in_bins_of(plain: Probabilities, labels: Labels, other: Probabilities) -> list[CalibrationBin]:
    """Return the calibration curve of `other` over fp32's bins. With its own bins, rows that change bins by rounding
    would make up the whole difference."""
    order = np.argsort(plain, kind="stable")
    places = np.cumsum([int(one.impressions) for one in calibration(labels, plain)])[:-1]
    return [
        CalibrationBin(float(other[rows].mean()), float(labels[rows].mean()), len(rows))
        for rows in np.split(order, places)
    ]


def _worst(losses: NDArray[np.float64]) -> float:
    found = interval(losses)
    return float("nan") if found is None else found[1]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


RequestedPrecision = Literal["fp32", "int8", "bf16", "auto"]


@dataclass(frozen=True)
class Chosen:
    """The int8 graph if it passed, runs of the precisions to serve in, and the record of the decision."""

    int8: bytes | None
    runs: Mapping[Precision, Run]
    record: PrecisionRecord

    @property
    def run(self) -> Run:
        """Of the chosen precision."""
        return self.runs[self.record.chosen]


def choose(
    graph: bytes,
    heads: Sequence[str],
    asked: RequestedPrecision,
    candidates: int,
    rows: Evidence,
    progress: Callable[[str, int], None],
) -> Chosen:
    """Choose the precision of an fp32 graph, by its first head (clicks), and by conversions if it has that head.

    Raises ExportError if the requested precision cannot run or be judged here, or fails the gate.
    """
    runs: dict[Precision, Run] = {"fp32": open_run(graph, "fp32", heads)}
    if asked == "fp32":
        return Chosen(None, runs, PrecisionRecord())
    wanted: tuple[Precision, ...] = ("int8", "bf16") if asked == "auto" else (asked,)
    if reason := rows.unjudged(heads):
        if asked != "auto":
            raise ExportError(f"{asked}: {reason}; use --precision fp32")
        refused = {precision: Tried(refused=reason) for precision in wanted}
        return Chosen(None, runs, PrecisionRecord(asked=asked, tried=refused))
    int8: bytes | None = None
    tried: dict[Precision, Tried] = {}
    for precision in wanted:
        try:
            if precision == "int8":
                check_int8(cpu_instructions())
                int8 = quantise(graph, rows.train())
            runs[precision] = open_run(int8 if precision == "int8" and int8 else graph, precision, heads, candidates)
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
    served = record.passed
    return Chosen(int8 if "int8" in served else None, {one: runs[one] for one in served}, record)


def pick(asked: RequestedPrecision, tried: Mapping[Precision, Tried]) -> Precision:
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
    return fastest(times)


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
