"""Comparison of the leaner model with the reference: same clicks, seeds and rows.

It is as good if the worse end of the paired 95 % interval is within a margin fixed beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.race.runners import in_onnxruntime
from lab.race.subject import Subject
from lab.reference.clicks import Clicks, new_catalogue, new_clicks
from lab.reference.inputs import Sizes
from lab.reference.training import ReferenceTraining, trained
from msd.bootstrap import Floats, compare_by_seed, resample_metrics
from msd.metrics import measure_pooled
from msd.report import Heard

AUC_MARGIN = 0.001
LOGLOSS_MARGIN = 0.001
# Two trainings of one network differ by as much as the margins: with fewer seeds, a difference means nothing.
_FEWEST_SEEDS = 3
_ROWS = 4  # number of the held-out clicks; the leaner model was chosen by others

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Study:
    """Number of seeds per network, and of requests to judge by."""

    seeds: int
    requests: int = 2_000
    candidates: int = 50


class Metric(NamedTuple):
    """Means over seeds, their difference with its 95 % interval, and the difference by seed."""

    reference: float
    lean: float
    difference: float
    ci95: tuple[float, float] | None
    by_seed: list[float]


class Comparison(NamedTuple):
    """The leaner model's metrics beside the reference's. `as_good`: None if there were too few seeds to tell."""

    auc: Metric
    logloss: Metric
    as_good: bool | None


def study_leaner(
    work: Path, sizes: Sizes, training: ReferenceTraining, study: Study, progress: Heard
) -> dict[str, Any]:
    """Return the comparison, ready for JSON, and the AUC of the clicks' own law; networks are kept in `work`."""
    rows = new_clicks(
        new_catalogue(sizes, training.seed), sizes, study.requests, study.candidates, training.seed + _ROWS
    )
    scores: dict[str, list[Scores]] = {"reference": [], "lean": []}
    for name, found in scores.items():
        for seed in range(training.seed, training.seed + study.seeds):
            hears = partial(progress, f"Training the {name} model, seed {seed}")
            network = trained(name, seed, work, sizes, training, hears)
            run = in_onnxruntime(Subject(name, network, sizes).passed.model)
            found.append(np.stack([run(feeds)[0] for feeds in rows.requests()]).astype(np.float32))
    comparison = compared(rows, **scores)
    law = measure_pooled(rows.clicked.ravel().astype(np.float64), rows.chances.ravel().astype(np.float64))
    return {
        "seeds": study.seeds,
        "rows": rows.candidates.size,
        "law_auc": law["auc"],
        "auc": comparison.auc._asdict(),
        "logloss": comparison.logloss._asdict(),
        "as_good": comparison.as_good,
    }


def compared(rows: Clicks, reference: Sequence[Scores], lean: Sequence[Scores]) -> Comparison:
    """Compare scores [R, C] of each seed of the leaner model with the reference's of the same seed.

    The interval is over users, with one request each, and over seeds.
    """
    labels = rows.clicked.ravel().astype(np.float64)
    users = np.repeat(np.arange(len(rows.candidates)), rows.candidates.shape[1])
    flat = np.stack([scores.ravel() for scores in (*reference, *lean)]).astype(np.float64)
    drawn = resample_metrics(labels, flat, users)
    measured = [measure_pooled(labels, scores) for scores in flat]
    auc, logloss = (
        _metric(np.array([metrics[name] for metrics in measured]), resampled, len(reference))
        for name, resampled in (("auc", drawn.auc), ("logloss", drawn.logloss))
    )
    return Comparison(auc, logloss, _as_good(auc, logloss) if len(reference) >= _FEWEST_SEEDS else None)


def _metric(measured: Floats, drawn: Floats, seeds: int) -> Metric:
    """Return a metric from measured [M] and resampled [M, R] figures; the first `seeds` are the reference's."""
    reference, lean = measured[:seeds], measured[seeds:]
    ci95 = compare_by_seed(drawn[seeds:], drawn[:seeds])["ci95"]
    means = float(reference.mean()), float(lean.mean()), float((lean - reference).mean())
    return Metric(*means, ci95, (lean - reference).tolist())


def _as_good(auc: Metric, logloss: Metric) -> bool:
    if auc.ci95 is None or logloss.ci95 is None:
        return False
    return auc.ci95[0] >= -AUC_MARGIN and logloss.ci95[1] <= LOGLOSS_MARGIN
