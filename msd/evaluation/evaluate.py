"""Evaluation of models and the counts baseline on the same test rows, labels and resamples."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import Resampled, compare, compare_by_seed, interval, resample_metrics
from msd.contract.bundle import HOW_SURE
from msd.dataset.aggregate import is_counted
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.evaluation.baselines import counts_baseline, text_baselines
from msd.evaluation.degradation import degradation_curves, degraded, measure_cold_ads
from msd.evaluation.slices import Slice, slice_rows, unmeasurable
from msd.evaluation.verdict import ServedScores, judge_semantics
from msd.evaluation.within import Compared, how_sure, measure_within
from msd.metrics import Labels, Probabilities, Weights, calibration, measure, measure_pooled
from msd.ranker.batch import TrainedRanker
from msd.ranker.calibrate import compare_calibrations
from msd.ranker.features import Features, build_features
from msd.student.vectors import LevelVectors, StudentVectors, untaught_items
from msd.training.folder import ModelFolderError, RankerRecord, load_ranker, student_of, vectors_of
from msd.training.train import predict, predict_conversions, predict_logits

BASELINE = "counts"
# Steps of `progress` besides models: the baseline's trees, and resampling.
OTHER_WORK = 2
_SLICE_METRICS = ("auc", "logloss", "ece", "predicted_over_observed")
Figures = dict[str, Any]
Progress = Callable[[str, int], None]


class ModelScores(NamedTuple):
    """One model trained with K seeds: its probabilities [K, n] on the test rows, and figures that only a network has.

    `served`: its probabilities with live counts; None for a baseline, or if its seeds differ in kind.
    """

    name: str
    seeds: tuple[int, ...]
    test: Probabilities
    figures: Figures
    served: ServedScores | None = None


class EvaluatedRows(NamedTuple):
    """n rows: labels, impressions that each stands for, and user numbers."""

    labels: Labels
    impressions: Weights
    users: NDArray[np.int64]

    def of(self, places: NDArray[np.int64]) -> "EvaluatedRows":
        """Return a subset of the rows."""
        return EvaluatedRows(self.labels[places], self.impressions[places], self.users[places])


def evaluate_models(
    data: Dataset,
    vectors: StudentVectors,
    models: Mapping[str, Sequence[Path]],
    seed: int,
    resamples: int,
    progress: Progress,
    student: Path | None = None,
    with_texts: bool = False,
) -> Figures:
    """Return the content of evaluation.json; docs/evaluation.md explains each figure. `models`: folders by name.

    `student`: folder of the student that made `vectors`; without it cold ads are not measured. `with_texts`: also
    measure models of texts alone. `progress` gets the current activity and the number of measured models. Raises
    ModelFolderError if a model was trained on another dataset or student, if a name has two models of one seed, or if
    the test rows have one label only.
    """
    _check(data, vectors, models)
    measured, features = _measure_all(data, vectors, models, seed, progress, student)
    done = sum(map(len, models.values()))
    test = features.of_part(Part.TEST)
    rows = EvaluatedRows(*features.outcomes(test), features.user.rows.numpy()[test].astype(np.int64))
    progress("Growing the baseline's trees", done)
    trees = counts_baseline(features, test, seed)
    measured.append(ModelScores(BASELINE, (seed,), trees[None], {}))
    if with_texts:
        progress("Fitting models of texts alone", done)
        found = text_baselines(features, student_texts(data)[0], test)
        measured += [ModelScores(name, (seed,), one[None], {}) for name, one in found]
    progress("Resampling users and rows", done + 1)
    units = {"users": rows.users, "rows": np.arange(len(test))}
    every = np.concatenate([one.test for one in measured])
    samples = {
        unit: resample_metrics(rows.labels, every, groups, resamples, seed, rows.impressions)
        for unit, groups in units.items()
    }
    slices = slice_rows(data, features.parts, test)
    results = {
        "rows": {part.name.lower(): len(features.of_part(part)) for part in Part},
        "resamples": resamples,
        "models": {one.name: _figures(one, rows, _of(samples, measured, one)) for one in measured},
        "verdict": _verdict(data, measured, rows, models, resamples, seed, student),
        "differences": [_difference(rows, one, other, samples, measured) for one, other in combinations(measured, 2)],
        "within": _within(features, rows, test, measured, resamples, seed) if is_counted(data.events) else None,
        "slices": [_slice_figures(one, rows, measured, resamples, seed) for one in slices],
    }
    progress("Scores", done + OTHER_WORK)
    return results


def _verdict(
    data: Dataset,
    measured: Sequence[ModelScores],
    rows: EvaluatedRows,
    models: Mapping[str, Sequence[Path]],
    resamples: int,
    seed: int,
    student: Path | None,
) -> Figures | None:
    """Return the verdict on semantics, and the command that exports the model to serve (its first folder)."""
    served = [one.served for one in measured if one.served]
    verdict = judge_semantics(served, rows.labels, rows.users, resamples, seed, rows.impressions)
    if verdict is None:
        return None
    folder = models[verdict["model" if verdict["sure"] else "minus"]][0]
    had = [student] if student and load_ranker(folder)[1].student else []
    line = ["msd", "export", data.folder, *had, folder, "BUNDLE"]
    return {**verdict, "command": shlex.join(map(str, line))}


def _check(data: Dataset, vectors: StudentVectors, models: Mapping[str, Sequence[Path]]) -> None:
    """Check inputs before measuring, which takes minutes."""
    for name, folders in models.items():
        of_seed: dict[Any, Path] = {}
        for folder in folders:
            record = load_ranker(folder)[1]
            if not record.is_of(data.fingerprint, vectors.student):
                raise ModelFolderError(
                    f"{folder}: was trained on another dataset or student than {data.folder} and its student"
                )
            if other := of_seed.get(seed := record.training["seed"]):
                raise ModelFolderError(
                    f"{other} and {folder}, both called {name!r}, were trained with the same seed, {seed}"
                )
            of_seed[seed] = folder
    clicked = data.events["label"].filter(split_events(data.events, data.config) == Part.TEST)
    if clicked.n_unique() < 2:
        raise ModelFolderError(f"{data.folder}: all {len(clicked)} test rows have label {clicked[0]}; nothing to rank")


def _measure_all(
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
    known: dict[tuple[str, str | None], Features] = {}
    done = 0
    for name, folders in models.items():
        parts = []
        for folder in folders:
            progress(f"Measuring {name}", done)
            trained, record = load_ranker(folder)
            key = trained.schema.schema_hash, record.own_student or record.student
            if key not in known:
                known[key] = build_features(data, trained.schema, vectors_of(folder, record, vectors))
            untaught = None
            if student and trained.schema.semantic("item"):
                own = student_of(folder, record, student)
                untaught = untaught_items(student, own if own != student else None, texts)
            parts.append(_measure_model(trained, record, known[key], seed, untaught, is_counted(data.events)))
            done += 1
        measured.append(_family(name, parts))
    return measured, next(iter(known.values()))


def _measure_model(
    trained: TrainedRanker,
    record: RankerRecord,
    features: Features,
    seed: int,
    untaught: LevelVectors | None,
    counted: bool,
) -> ModelScores:
    test, valid = features.of_part(Part.TEST), features.of_part(Part.VALID)
    labels, impressions = features.outcomes(test)
    whole = predict(trained, features, test)
    rungs = {name: predict(trained, less, test) for name, less in degraded(features)}
    cold_ads = measure_cold_ads(trained, features, untaught, Part.TEST) if untaught else None
    live = predict(trained, features.live(), test)
    held = _compared(features, valid) if counted else None
    scores = held.scores(features.outcomes(valid)[1], predict(trained, features, valid)) if held else None
    figures = {
        "curve": [point._asdict() for point in record.curve],
        "live_counts": measure_pooled(labels, live, impressions),
        "cold_ads": cold_ads.model_dump(mode="json") if cold_ads else None,
        "conversions": _conversions(trained, features, test, whole) if trained.has_conversions else None,
        "choice": record.choice.say() if record.choice else None,
        HOW_SURE: how_sure(held, scores) if held and scores is not None else [],
        "calibrations": compare_calibrations(predict_logits(trained, features, valid), *features.outcomes(valid), seed),
        "degradation": degradation_curves(labels, whole, rungs, seed, impressions),
    }
    seeds, semantics = (int(record.training["seed"]),), trained.schema.semantic("item") is not None
    return ModelScores(
        "", seeds, whole[None], figures, ServedScores("", record.config.network, seeds, semantics, live[None])
    )


def _conversions(
    trained: TrainedRanker, features: Features, test: NDArray[np.int64], pctr: NDArray[np.float64]
) -> Figures:
    """Measure predicted conversions: `pcvr` on clicks, and `pctcvr`, its product with `pctr`, on impressions. Each has
    its base rate; None if all rows have one outcome."""
    converted, pcvr = features.converted(test), predict_conversions(trained, features, test)
    clicked = features.outcomes(test)[0] > 0
    return {
        "pcvr": _measure_rate(converted[clicked], pcvr[clicked]),
        "pctcvr": _measure_rate(converted, pctr * pcvr),
    }


def _measure_rate(labels: Labels, probabilities: NDArray[np.float64]) -> Figures | None:
    if len(np.unique(labels)) < 2:
        return None
    return {"rows": len(labels), "base_rate": float(labels.mean()), **measure_pooled(labels, probabilities)}


def _family(name: str, parts: Sequence[ModelScores]) -> ModelScores:
    """Combine a model's seeds: average the figures, and keep the training curve of the first."""
    parts = sorted(parts, key=lambda one: one.seeds)
    seeds = tuple(seed for one in parts for seed in one.seeds)
    every = [one.figures for one in parts]
    conversions = [one["conversions"] for one in every]
    # A rung counts only if every seed has it.
    rungs = [name for name in every[0]["degradation"] if all(name in one["degradation"] for one in every)]
    figures = {
        "curve": every[0]["curve"],
        "live_counts": _mean([one["live_counts"] for one in every]),
        "cold_ads": [one["cold_ads"] for one in every if one["cold_ads"]],
        "choice": [one["choice"] for one in every if one["choice"]],
        "conversions": None if None in conversions else _mean(conversions),
        HOW_SURE: every[0][HOW_SURE],
        "calibrations": _mean([one["calibrations"] for one in every]),
        "degradation": {name: _mean([one["degradation"][name] for one in every]) for name in rungs},
    }
    return ModelScores(name, seeds, np.concatenate([one.test for one in parts]), figures, _served(name, seeds, parts))


def _served(name: str, seeds: tuple[int, ...], parts: Sequence[ModelScores]) -> ServedScores | None:
    """Return the scores of all seeds; None if they differ in network or in reading vectors."""
    every = [one.served for one in parts if one.served]
    if len({(one.network, one.semantics) for one in every}) != 1:
        return None
    return every[0]._replace(name=name, seeds=seeds, live=np.concatenate([one.live for one in every]))


def _mean(figures: Sequence[Any]) -> Any:  # noqa: ANN401 - figures of any depth
    """Return the mean of equally shaped trees of figures; None where any figure is None."""
    first = figures[0]
    if isinstance(first, dict):
        return {key: _mean([one[key] for one in figures]) for key in first}
    if isinstance(first, list):
        return [_mean(ranked) for ranked in zip(*figures, strict=True)]
    return None if None in figures else fmean(figures)


def _compared(features: Features, events: NDArray[np.int64]) -> Compared:
    users, items = (side.rows.numpy()[events].astype(np.int64) for side in (features.user, features.item))
    return Compared.of(*features.outcomes(events), users, items)


def _within(
    features: Features,
    rows: EvaluatedRows,
    test: NDArray[np.int64],
    measured: Sequence[ModelScores],
    resamples: int,
    seed: int,
) -> Figures | None:
    """Return the figures within each user's items; None if no user saw two with different rates."""
    compared = _compared(features, test)
    if not len(compared.z):
        return None
    models = {one.name: np.stack([compared.scores(rows.impressions, row) for row in one.test]) for one in measured}
    return measure_within(compared, models, measured[0].name, resamples, seed)


def _figures(one: ModelScores, rows: EvaluatedRows, samples: Mapping[str, Resampled]) -> Figures:
    by_seed = [measure(rows.labels, probabilities, rows.users, rows.impressions) for probabilities in one.test]
    labels, impressions = (np.tile(column, len(by_seed)) for column in (rows.labels, rows.impressions))
    pooled = calibration(labels, one.test.flatten(), impressions)
    return {
        "metrics": _mean(by_seed),
        "deviation": _deviation(by_seed),
        "seeds": [{"seed": seed, "metrics": metrics} for seed, metrics in zip(one.seeds, by_seed, strict=True)],
        "ci95": {
            unit: {metric: interval(getattr(found, metric).mean(0)) for metric in Resampled._fields}
            for unit, found in samples.items()
        },
        "calibration": [point._asdict() for point in pooled],
        **one.figures,
    }


def _deviation(by_seed: Sequence[Mapping[str, float | None]]) -> dict[str, float | None] | None:
    """Return the sample standard deviation over seeds; None for a single seed."""
    if len(by_seed) < 2:
        return None
    columns = {metric: [one[metric] for one in by_seed] for metric in by_seed[0]}
    return {
        metric: None if None in column else float(np.std(np.array(column, np.float64), ddof=1))
        for metric, column in columns.items()
    }


def _of(samples: Mapping[str, Resampled], measured: Sequence[ModelScores], one: ModelScores) -> dict[str, Resampled]:
    """Return the resampled metrics of one model's seeds; they follow those of the models before it."""
    start = sum(len(other.seeds) for other in measured[: [other.name for other in measured].index(one.name)])
    held = slice(start, start + len(one.seeds))
    return {unit: Resampled(*(metric[held] for metric in found)) for unit, found in samples.items()}


def _difference(
    rows: EvaluatedRows,
    one: ModelScores,
    other: ModelScores,
    samples: Mapping[str, Resampled],
    measured: Sequence[ModelScores],
) -> Figures:
    """Return one model's AUC and logloss minus another's, as means over seeds; also by seed if both have the same."""
    ours, theirs = (_of(samples, measured, model) for model in (one, other))
    ours_by_seed, theirs_by_seed = (
        [measure_pooled(rows.labels, row, rows.impressions) for row in model.test] for model in (one, other)
    )
    result: Figures = {"model": one.name, "minus": other.name}
    for metric in Resampled._fields:
        column, column_of_other = ([found[metric] for found in all_] for all_ in (ours_by_seed, theirs_by_seed))
        figures: Figures = {"difference": float(np.mean(column) - np.mean(column_of_other))}
        for unit in samples:
            figures[unit] = compare(getattr(ours[unit], metric), getattr(theirs[unit], metric))
        if len(one.seeds) > 1 and one.seeds == other.seeds:
            gaps = np.array(column) - np.array(column_of_other)
            figures["by_seed"] = {"differences": gaps.tolist(), "deviation": float(gaps.std(ddof=1))}
            figures["users_and_seeds"] = compare_by_seed(
                getattr(ours["users"], metric), getattr(theirs["users"], metric)
            )
        result[metric] = figures
    return result


def _slice_figures(
    one: Slice,
    rows: EvaluatedRows,
    measured: Sequence[ModelScores],
    resamples: int,
    seed: int,
) -> Figures:
    """Return rows and clicks; metrics by model, or why there are none; and the first model's AUC gain over the rest."""
    sliced = rows.of(one.rows)
    clicks = int(sliced.labels @ sliced.impressions)
    figures: Figures = {"by": one.by, "value": one.value, "rows": len(sliced.labels), "clicks": clicks}
    if reason := unmeasurable(sliced.labels):
        return {**figures, "unmeasured": reason}
    held = [model._replace(test=model.test[:, one.rows]) for model in measured]
    models = {
        model.name: _mean(
            [
                {metric: found[metric] for metric in _SLICE_METRICS}
                for found in (measure_pooled(sliced.labels, row, sliced.impressions) for row in model.test)
            ]
        )
        for model in held
    }
    every = np.concatenate([model.test for model in held])
    drawn = resample_metrics(sliced.labels, every, sliced.users, resamples, seed, sliced.impressions)
    samples = {"users": drawn}
    first = _of(samples, held, held[0])["users"].auc
    gains = {
        model.name: {
            "difference": models[held[0].name]["auc"] - models[model.name]["auc"],
            **compare(first, _of(samples, held, model)["users"].auc),
        }
        for model in held[1:]
    }
    return {**figures, "models": models, "auc_gain_of_first": gains}
