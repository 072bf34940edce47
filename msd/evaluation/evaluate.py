"""Evaluation of models and baselines on the same test rows, labels and resamples."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd.bootstrap import Resampled, compare, compare_by_seed, draw_weights, interval, resample_metrics
from msd.dataset.aggregate import is_counted
from msd.dataset.load import Dataset
from msd.dataset.split import Part, split_events
from msd.dataset.texts import student_texts
from msd.evaluation.baselines import counts_baseline, text_baselines
from msd.evaluation.present_scores import read_scores
from msd.evaluation.regression import regression_baseline
from msd.evaluation.scores import Figures, ModelScores, Progress, compared_items, mean_figures, score_models
from msd.evaluation.single_features import single_features
from msd.evaluation.slices import Slice, slice_rows, unmeasurable
from msd.evaluation.verdict import COUNTS, REGRESSION, objections
from msd.evaluation.within import measure_within
from msd.metrics import FEWEST_USERS, Labels, Weights, calibration, measure, measure_pooled, measure_users
from msd.ranker.features import Features
from msd.student.vectors import StudentVectors
from msd.training.folder import ModelFolderError, load_ranker

# Steps of `progress` besides models: regression, trees, and resampling.
OTHER_WORK = 3
_SLICE_METRICS = ("auc", "logloss", "ece", "predicted_over_observed")

# Resampled metrics by unit and model.
Samples = Mapping[str, Mapping[str, Resampled]]


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
    scores: Mapping[str, Path] | None = None,
) -> Figures:
    """Return the content of evaluation.json; docs/evaluation.md explains each figure. `models`: folders by name.

    `student`: folder of the student that made `vectors`; without it cold ads are not measured. `with_texts`: also
    measure models of texts alone. `scores`: files of other models' scores by name. `progress` gets the current activity
    and the number of measured models. Raises ModelFolderError if a model was trained on another dataset or student, if
    a name has two models of one seed, or if the test rows have one label only; ScoresFileError for unusable scores.
    """
    _check(data, vectors, models)
    shown = data.events.filter(split_events(data.events, data.config) == Part.TEST)
    given = [ModelScores(name, (seed,), read_scores(file, shown)[None], {}) for name, file in (scores or {}).items()]
    measured, features = score_models(data, vectors, models, seed, progress, student)
    done = sum(map(len, models.values()))
    test = features.of_part(Part.TEST)
    rows = EvaluatedRows(*features.outcomes(test), features.people(test))
    progress("Fitting the baseline's regression", done)
    measured.append(ModelScores(REGRESSION, (seed,), regression_baseline(features, test)[None], {}))
    progress("Growing the baseline's trees", done + 1)
    measured.append(ModelScores(COUNTS, (seed,), counts_baseline(features, test, seed)[None], {}))
    if with_texts:
        progress("Fitting models of texts alone", done + 1)
        found = text_baselines(features, student_texts(data)[0], test, is_counted(data.events))
        measured += [ModelScores(name, (seed,), one[None], {}) for name, one in found]
    measured += given
    progress("Resampling users and rows", done + 2)
    samples = _resample(measured, rows, {"users": rows.users, "rows": np.arange(len(test))}, resamples, seed)
    slices = slice_rows(data, features.parts, test)
    verdict = judge_semantics(measured, rows, resamples, seed)
    if verdict:
        # The model to serve; its first folder.
        folder = models[verdict["model" if verdict["sure"] else "minus"]][0]
        with_student = [student] if student and load_ranker(folder)[1].student else []
        verdict["command"] = shlex.join(map(str, ["msd", "export", data.folder, *with_student, folder, "BUNDLE"]))
    results: Figures = {
        "rows": {part.name.lower(): len(features.of_part(part)) for part in Part},
        "clicks": _clicks(features),
        "resamples": resamples,
        "models": {one.name: _figures(one, rows, samples) for one in measured},
        "alone": single_features(features, test),
        "verdict": verdict,
        "differences": _differences(measured, rows, samples, resamples, seed),
        "within": _within(features, rows, test, measured, resamples, seed) if is_counted(data.events) else None,
        "slices": [_slice_figures(one, rows, measured, resamples, seed) for one in slices],
    }
    progress("Scores", done + OTHER_WORK)
    return {**results, "objections": objections(results)}


def _clicks(features: Features) -> dict[str, dict[str, float]]:
    """Return impressions and clicks of train rows, which include the window, and of the parts after them."""
    parts = {"train": (Part.WINDOW, Part.TRAIN), "valid": (Part.VALID,), "test": (Part.TEST,)}
    outcomes = {name: features.outcomes(features.of_part(*of)) for name, of in parts.items()}
    return {
        name: {"impressions": float(impressions.sum()), "clicks": float(labels @ impressions)}
        for name, (labels, impressions) in outcomes.items()
    }


def judge_semantics(
    measured: Sequence[ModelScores], rows: EvaluatedRows, resamples: int, seed: int
) -> dict[str, Any] | None:
    """Return the verdict on semantics as served: the AUC gain, with live counts, of the first model with vectors over
    the first of the same network without, its 95 % interval over users (and seeds, if both have the same, more than
    one), and whether it is sure; None without such a pair."""
    pairs = [
        (one, other)
        for one, other in permutations(measured, 2)
        if one.kind and other.kind and one.kind == (other.kind[0], True) and not other.kind[1]
    ]
    if not pairs:
        return None
    # A network has scores with live counts.
    ours, theirs = live = [one._replace(test=one.live) for one in pairs[0] if one.live is not None]
    auc = [
        float(np.mean([measure_pooled(rows.labels, row, rows.impressions)["auc"] for row in one.test])) for one in live
    ]
    gain = _difference(rows, ours, theirs, _resample(live, rows, {"users": rows.users}, resamples, seed))["auc"]
    unit = "users_and_seeds" if "users_and_seeds" in gain else "users"
    found = {"model": ours.name, "minus": theirs.name, "auc": auc, "gain": auc[0] - auc[1], **gain[unit]}
    ends = found["ci95"]
    return {**found, "unit": unit.replace("_", " "), "sure": bool(ends and ends[0] > 0)}


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


def _within(
    features: Features,
    rows: EvaluatedRows,
    test: NDArray[np.int64],
    measured: Sequence[ModelScores],
    resamples: int,
    seed: int,
) -> Figures | None:
    """Return the figures within each user's items; None if no user saw two with different rates."""
    compared = compared_items(features, test)
    if not len(compared.z):
        return None
    models = {one.name: np.stack([compared.scores(rows.impressions, row) for row in one.test]) for one in measured}
    return measure_within(compared, models, measured[0].name, resamples, seed)


def _figures(one: ModelScores, rows: EvaluatedRows, samples: Samples) -> Figures:
    by_seed = [measure(rows.labels, probabilities, rows.users, rows.impressions) for probabilities in one.test]
    labels, impressions = (np.tile(column, len(by_seed)) for column in (rows.labels, rows.impressions))
    pooled = calibration(labels, one.test.flatten(), impressions)
    return {
        "metrics": mean_figures(by_seed),
        "deviation": _deviation(by_seed),
        "seeds": [{"seed": seed, "metrics": metrics} for seed, metrics in zip(one.seeds, by_seed, strict=True)],
        "ci95": {
            unit: {metric: interval(getattr(found[one.name], metric).mean(0)) for metric in Resampled._fields}
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


def _resample(
    measured: Sequence[ModelScores],
    rows: EvaluatedRows,
    units: Mapping[str, NDArray[np.int64]],
    resamples: int,
    seed: int,
) -> Samples:
    """Resample rows by units, given as the group of each row."""
    every, ends = np.concatenate([one.test for one in measured]), np.cumsum([len(one.seeds) for one in measured])
    found = {}
    for unit, groups in units.items():
        drawn = resample_metrics(rows.labels, every, groups, resamples, seed, rows.impressions)
        parts = zip(*(np.split(metric, ends[:-1]) for metric in drawn), strict=True)
        found[unit] = {one.name: Resampled(*part) for one, part in zip(measured, parts, strict=True)}
    return found


def _differences(
    measured: Sequence[ModelScores], rows: EvaluatedRows, samples: Samples, resamples: int, seed: int
) -> list[Figures]:
    """Return each pair's differences in AUC and logloss, and in GAUC if FEWEST_USERS have both labels."""
    by_user = {
        one.name: [measure_users(rows.labels, row, rows.users, rows.impressions) for row in one.test]
        for one in measured
    }
    aucs = {name: np.mean([auc for auc, _ in found], axis=0) for name, found in by_user.items()}
    shown = next(iter(by_user.values()))[0][1]
    drawn = {name: np.empty((1, 0)) for name in aucs}
    if len(shown) >= FEWEST_USERS:
        draws = np.concatenate(list(draw_weights(np.arange(len(shown)), resamples, seed))) * shown
        drawn = {name: (draws @ auc / draws.sum(1))[None] for name, auc in aucs.items()}
    found = []
    for one, other in combinations(measured, 2):
        gap = (
            float(np.average(aucs[one.name] - aucs[other.name], weights=shown)) if len(shown) >= FEWEST_USERS else None
        )
        order = None if gap is None else {"difference": gap, "users": compare(drawn[one.name], drawn[other.name])}
        found.append({**_difference(rows, one, other, samples), "gauc": order})
    return found


def _difference(rows: EvaluatedRows, one: ModelScores, other: ModelScores, samples: Samples) -> Figures:
    """Return one model's AUC and logloss minus another's, as means over seeds; also by seed if both have the same."""
    ours_by_seed, theirs_by_seed = (
        [measure_pooled(rows.labels, row, rows.impressions) for row in model.test] for model in (one, other)
    )
    result: Figures = {"model": one.name, "minus": other.name}
    for metric in Resampled._fields:
        column, column_of_other = ([found[metric] for found in all_] for all_ in (ours_by_seed, theirs_by_seed))
        figures: Figures = {"difference": float(np.mean(column) - np.mean(column_of_other))}
        drawn = {unit: [getattr(found[of.name], metric) for of in (one, other)] for unit, found in samples.items()}
        figures |= {unit: compare(*pair) for unit, pair in drawn.items()}
        if len(one.seeds) > 1 and one.seeds == other.seeds:
            gaps = np.array(column) - np.array(column_of_other)
            figures["by_seed"] = {"differences": gaps.tolist(), "deviation": float(gaps.std(ddof=1))}
            figures["users_and_seeds"] = compare_by_seed(*drawn["users"])
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
        model.name: mean_figures(
            [
                {metric: found[metric] for metric in _SLICE_METRICS}
                for found in (measure_pooled(sliced.labels, row, sliced.impressions) for row in model.test)
            ]
        )
        for model in held
    }
    drawn = _resample(held, sliced, {"users": sliced.users}, resamples, seed)["users"]
    gains = {
        model.name: {
            "difference": models[held[0].name]["auc"] - models[model.name]["auc"],
            **compare(drawn[held[0].name].auc, drawn[model.name].auc),
        }
        for model in held[1:]
    }
    return {**figures, "models": models, "auc_gain_of_first": gains}
