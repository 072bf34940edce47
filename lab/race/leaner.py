"""Comparison of leaner models with the reference: same clicks, seeds and rows.

A model is as good if the worse end of the paired 95 % interval is within a margin fixed beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lab.race.precisions import Precisions, lowered, scores
from lab.race.runners import in_onnxruntime
from lab.race.subject import Subject
from lab.reference.clicks import Clicks
from lab.reference.inputs import Sizes
from lab.reference.network import LEANER
from lab.reference.training import Progress, ReferenceTraining, TrainedReference, new_held, trained
from msd.bootstrap import Floats, compare_by_seed, resample_metrics
from msd.contract.instructions import cpu_instructions
from msd.metrics import measure_pooled

AUC_MARGIN = 0.001
LOGLOSS_MARGIN = 0.001
_LEANEST = "lean"
# Two trainings of one network differ by as much as the margins: with fewer seeds, a difference means nothing.
_FEWEST_SEEDS = 3
_REFERENCE = "reference"
_ROWS = 4  # number of the held-out clicks; the leaner models were chosen by others


@dataclass(frozen=True)
class Study:
    """Seeds per network, and requests to judge by. With two seeds or more, each change of the leanest model is also
    tried alone."""

    seeds: int = 1
    requests: int = 2_000
    candidates: int = 50

    @property
    def names(self) -> Sequence[str]:
        """Names of the leaner models."""
        return tuple(LEANER) if self.seeds > 1 else (_LEANEST,)


class Metric(NamedTuple):
    """Mean over seeds, its difference from the reference's with the 95 % interval, and the difference by seed."""

    mean: float
    difference: float
    ci95: tuple[float, float] | None
    by_seed: list[float]


class Comparison(NamedTuple):
    """A model's metrics beside the reference's. `as_good`: None if there were too few seeds to tell."""

    auc: Metric
    logloss: Metric
    as_good: bool | None


@dataclass(frozen=True)
class Leaner:
    """A leaner model of the first seed, in all precisions, and its comparison over all seeds."""

    subject: Subject
    precisions: Precisions
    comparison: Comparison


def leaner_models(
    work: Path, sizes: Sizes, training: ReferenceTraining, study: Study, reference: TrainedReference, progress: Progress
) -> dict[str, Leaner]:
    """Return each leaner model, trained in `work` if missing. `progress` gets the models done and their total."""
    rows = new_held(sizes, training, study.requests, study.candidates, _ROWS)
    found: dict[str, list[NDArray[np.float32]]] = {}
    first: dict[str, Subject] = {}
    names = (_REFERENCE, *study.names)
    for number, name in enumerate(names):
        subjects = []
        for seed in range(study.seeds):
            progress(number * study.seeds + seed, len(names) * study.seeds)
            network = trained(name, training.seed + seed, work, sizes, training, lambda *_: None)
            subjects.append(Subject(name, network, sizes))
        found[name] = [scores(in_onnxruntime(one.passed.model), rows) for one in subjects]
        first[name] = subjects[0]
    instructions = cpu_instructions()
    comparisons = compared(rows, found.pop(_REFERENCE), found)
    return {
        name: Leaner(
            first[name], lowered(first[name].passed.model, reference.known, reference.held, instructions), comparison
        )
        for name, comparison in comparisons.items()
    }


def compared(
    rows: Clicks, reference: Sequence[NDArray[np.float32]], others: Mapping[str, Sequence[NDArray[np.float32]]]
) -> dict[str, Comparison]:
    """Compare scores [R, C] of each seed of other models with the reference's of the same seed.

    The interval is over users, with one request each, and over seeds.
    """
    labels = rows.clicked.ravel().astype(np.float64)
    users = np.repeat(np.arange(len(rows.candidates)), rows.candidates.shape[1])
    flat = np.stack([one.ravel() for of_model in (reference, *others.values()) for one in of_model]).astype(np.float64)
    drawn = resample_metrics(labels, flat, users)
    measured = [measure_pooled(labels, one) for one in flat]
    seeds = len(reference)
    comparisons = {}
    for number, name in enumerate(others, start=1):
        ours = slice(number * seeds, (number + 1) * seeds)
        auc, logloss = (
            _metric(np.array([one[key] for one in measured]), draws, seeds, ours)
            for key, draws in (("auc", drawn.auc), ("logloss", drawn.logloss))
        )
        comparisons[name] = Comparison(auc, logloss, _as_good(auc, logloss) if seeds >= _FEWEST_SEEDS else None)
    return comparisons


def _metric(measured: Floats, drawn: Floats, seeds: int, ours: slice) -> Metric:
    """Return a metric from measured [M] and resampled [M, R] figures; the first `seeds` models are the reference."""
    differences = measured[ours] - measured[:seeds]
    return Metric(
        mean=float(measured[ours].mean()),
        difference=float(differences.mean()),
        ci95=compare_by_seed(drawn[ours], drawn[:seeds])["ci95"],
        by_seed=differences.tolist(),
    )


def _as_good(auc: Metric, logloss: Metric) -> bool:
    if auc.ci95 is None or logloss.ci95 is None:
        return False
    return auc.ci95[0] >= -AUC_MARGIN and logloss.ci95[1] <= LOGLOSS_MARGIN
