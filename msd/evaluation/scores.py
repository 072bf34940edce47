"""Scores of trained models on the test rows, and what is measured of each by itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.contract.bundle import HOW_SURE
from msd.dataset.aggregate import is_counted
from msd.dataset.load import Dataset
from msd.dataset.split import Part
from msd.dataset.texts import student_texts
from msd.evaluation.degradation import degraded, measure_cold_ads
from msd.evaluation.within import Compared, how_sure
from msd.metrics import Labels, Probabilities, measure_pooled, roc_auc
from msd.ranker.batch import TrainedRanker, with_taste
from msd.ranker.features import Features, build_features
from msd.ranker.model import Ranker
from msd.student.vectors import LevelVectors, StudentVectors, untaught_items
from msd.training.folder import RankerRecord, load_ranker
from msd.training.train import predict, predict_conversions, predict_logits

Figures = dict[str, Any]
Progress = Callable[[str, int], None]


class ModelScores(NamedTuple):
    """One model trained with K seeds: its probabilities [K, n] on the test rows, and figures that only a network has.

    `live`: its probabilities with live counts, and `kind`, its network and whether it reads vectors; both None for a
    baseline, `kind` also if it differs between seeds.
    """

    name: str
    seeds: tuple[int, ...]
    test: Probabilities
    figures: Figures
    live: Probabilities | None = None
    kind: tuple[str, bool] | None = None


def score_models(
    data: Dataset,
    vectors: StudentVectors,
    models: Mapping[str, Sequence[Path]],
    seed: int,
    progress: Progress,
    student: Path | None,
) -> tuple[list[ModelScores], Features]:
    """Return every model's scores, and features with the common rows, labels and users."""
    texts, _ = student_texts(data)
    measured: list[ModelScores] = []
    known: dict[str, Features] = {}
    done = 0
    for name, folders in models.items():
        parts = []
        for folder in folders:
            progress(f"Measuring {name}", done)
            trained, record = load_ranker(folder)
            key = trained.schema.schema_hash
            if key not in known:
                walked = next(iter(known.values())).timeline if known else None
                known[key] = build_features(data, trained.schema, vectors, timeline=walked)
            untaught = None
            if student and trained.schema.semantic("item"):
                untaught = untaught_items(student, texts)
            parts.append(_score_seed(name, trained, record, known[key], seed, untaught, is_counted(data.events)))
            done += 1
        measured.append(_family(parts))
    return measured, next(iter(known.values()))


def compared_items(features: Features, events: NDArray[np.int64]) -> Compared:
    """Return the items of each user of events, to be compared within the user."""
    users, items = (side.rows.numpy()[events].astype(np.int64) for side in (features.user, features.item))
    return Compared.of(*features.outcomes(events), users, items)


def mean_figures(figures: Sequence[Any]) -> Any:  # noqa: ANN401 - figures of any depth
    """Return the mean of equally shaped trees of figures; None where any figure is None."""
    first = figures[0]
    if isinstance(first, dict):
        return {key: mean_figures([found[key] for found in figures]) for key in first}
    if isinstance(first, list):
        return [mean_figures(ranked) for ranked in zip(*figures, strict=True)]
    return None if None in figures else fmean(figures)


def _score_seed(
    name: str,
    trained: TrainedRanker,
    record: RankerRecord,
    features: Features,
    seed: int,
    untaught: LevelVectors | None,
    counted: bool,
) -> ModelScores:
    test, valid = features.of_part(Part.TEST), features.of_part(Part.VALID)
    labels, impressions = features.outcomes(test)
    if isinstance(trained.ranker, Ranker) and trained.ranker.taste:
        features = trained.adaptors.adapt(features)
        features = with_taste(trained.ranker.taste, features, np.concatenate([valid, test]))
    whole = predict(trained, features, test)
    rungs = {
        name: measure_pooled(labels, predict(trained, less, test), impressions) for name, less in degraded(features)
    }
    cold_ads = measure_cold_ads(trained, features, untaught, Part.TEST) if untaught else None
    live = predict(trained, features.live(), test)
    held = compared_items(features, valid) if counted else None
    scores = held.scores(features.outcomes(valid)[1], predict(trained, features, valid)) if held else None
    valid_logits, valid_outcomes = predict_logits(trained, features, valid), features.outcomes(valid)
    valid_auc = roc_auc(valid_outcomes[0], valid_logits, valid_outcomes[1])
    figures = {
        "curve": [point._asdict() for point in record.curve],
        "valid_auc": valid_auc if np.isfinite(valid_auc) else None,
        "live_counts": measure_pooled(labels, live, impressions),
        "cold_ads": cold_ads.model_dump(mode="json") if cold_ads else None,
        "conversions": _conversions(trained, features, test, whole) if trained.has_conversions else None,
        "choice": record.choice.say() if record.choice else None,
        HOW_SURE: how_sure(held, scores) if held and scores is not None else [],
        "degradation": rungs,
    }
    kind = record.config.network, trained.schema.semantic("item") is not None
    return ModelScores(name, (int(record.training["seed"]),), whole[None], figures, live[None], kind)


def _conversions(
    trained: TrainedRanker, features: Features, test: NDArray[np.int64], pctr: NDArray[np.float64]
) -> Figures:
    """Measure predicted conversions: `pcvr` on clicks, and `pctcvr`, its product with `pctr`, on impressions, of those
    that have arrived. Each has its base rate; None if all rows have one outcome."""
    converted, pcvr = features.converted(test), predict_conversions(trained, features, test)
    pcvr = pcvr * features.share_arrived(test)
    clicked = features.outcomes(test)[0] > 0
    return {
        "pcvr": _measure_rate(converted[clicked], pcvr[clicked]),
        "pctcvr": _measure_rate(converted, pctr * pcvr),
    }


def _measure_rate(labels: Labels, probabilities: NDArray[np.float64]) -> Figures | None:
    if len(np.unique(labels)) < 2:
        return None
    return {"rows": len(labels), "base_rate": float(labels.mean()), **measure_pooled(labels, probabilities)}


def _family(parts: Sequence[ModelScores]) -> ModelScores:
    """Combine a model's seeds: average the figures, and keep the training curve of the first."""
    parts = sorted(parts, key=lambda part: part.seeds)
    every = [part.figures for part in parts]
    conversions = [figures["conversions"] for figures in every]
    # A rung counts only if every seed has it.
    rungs = [name for name in every[0]["degradation"] if all(name in figures["degradation"] for figures in every)]
    figures = {
        "curve": every[0]["curve"],
        "valid_auc": mean_figures([one["valid_auc"] for one in every]),
        "live_counts": mean_figures([one["live_counts"] for one in every]),
        "cold_ads": [one["cold_ads"] for one in every if one["cold_ads"]],
        "choice": [one["choice"] for one in every if one["choice"]],
        "conversions": None if None in conversions else mean_figures(conversions),
        HOW_SURE: every[0][HOW_SURE],
        "degradation": {name: mean_figures([one["degradation"][name] for one in every]) for name in rungs},
    }
    seeds = tuple(seed for part in parts for seed in part.seeds)
    test, live = (np.concatenate(column) for column in zip(*((part.test, part.live) for part in parts), strict=True))
    kind = parts[0].kind if len({part.kind for part in parts}) == 1 else None
    return ModelScores(parts[0].name, seeds, test, figures, live, kind)
