"""Metrics against figures worked out by hand, and against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from msd.bootstrap import _CELLS, compare, compare_by_seed, interval, resample_metrics, two_sided_p
from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.evaluation.baselines import counts_baseline
from msd.metrics import FEWEST_USERS, calibration, expected_calibration_error, measure, roc_auc
from msd.ranker.calibrate import fit_platt
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import dataset_of, word_vectors

LABELS = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
SCORES = np.array([0.9, 0.2, 0.3, 0.6, 0.1, 0.8])
# User 0 ranks both pairs right; user 1 one of two, in three rows; user 2 has one label only.
USERS = np.array([0, 0, 1, 1, 1, 2])


def test_metrics_by_hand() -> None:
    users = np.concatenate([USERS + 3 * copy for copy in range(FEWEST_USERS // 2)])
    labels, scores = (np.tile(one, FEWEST_USERS // 2) for one in (LABELS, SCORES))
    found = measure(labels, scores, users)
    assert found["auc"] == pytest.approx(8 / 9)
    assert found["uauc"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["gauc"] == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    loss = -np.mean(np.log([0.9, 0.8, 0.3, 0.4, 0.9, 0.8]))
    assert found["logloss"] == pytest.approx(loss)
    assert found["normalised_entropy"] == pytest.approx(loss / np.log(2))
    assert found["predicted_over_observed"] == pytest.approx(2.9 / 3)
    few = measure(LABELS, SCORES, USERS)
    every_user_has_one_label = measure(LABELS, SCORES, np.arange(len(LABELS)))
    for noise in (few, every_user_has_one_label):
        assert (noise["gauc"], noise["uauc"]) == (None, None)
    assert every_user_has_one_label["auc"] == pytest.approx(8 / 9)
    certain = measure(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0, 0]))
    assert certain["logloss"] == pytest.approx(-np.log(1e-7), rel=1e-3)


def test_calibration_by_hand() -> None:
    curve = calibration(LABELS, SCORES, bins=2)
    assert [point.impressions for point in curve] == [3, 3]
    assert [point.predicted for point in curve] == pytest.approx([0.2, 2.3 / 3])
    assert [point.observed for point in curve] == pytest.approx([1 / 3, 2 / 3])
    assert expected_calibration_error(curve) == pytest.approx((1 / 3 - 0.2 + 0.1) / 2)
    assert [point.impressions for point in calibration(LABELS, SCORES)] == [1] * 6, "fewer rows than bins"


def test_trees_learn_from_counts(tmp_path: Path) -> None:
    dataset = load_dataset(write_tiny_dataset(tmp_path, users=60))
    vectors = word_vectors(dataset)
    features, plain = (
        build_features(dataset, fit_schema(dataset, semantics=given), vectors) for given in (True, False)
    )
    test = features.of_part(Part.TEST)
    labels = features.labels.numpy()[test]
    found = counts_baseline(features, test, seed=0)
    assert found.shape == (len(test),)
    assert ((found > 0) & (found < 1)).all()
    assert roc_auc_score(labels, found) > 0.55
    assert np.array_equal(found, counts_baseline(features, test, seed=0))
    # The only trace of vectors, whether there is one, is not what it lives on.
    assert roc_auc_score(labels, counts_baseline(plain, test, seed=0)) > 0.55


@given(
    rows=st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(-50, 50)), min_size=2),
)
def test_auc_counts_a_tie_by_half(rows: list[tuple[bool, float]]) -> None:
    labels, scores = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    if 0 < labels.sum() < len(labels):
        found = roc_auc(labels, scores)
        assert found == pytest.approx(roc_auc_score(labels, scores))
        assert type(found) is float  # what is compared with one of numpy's cannot be written as JSON
    else:
        assert np.isnan(roc_auc(labels, scores))


RNG = np.random.default_rng(3)
COUNTED_SCORES = RNG.random(60).round(1) * 0.9 + 0.05
COUNTED_LABELS = (RNG.random(60) < COUNTED_SCORES).astype(np.float64)
TIMES = RNG.integers(1, 9, 60)
COUNTED_USERS = np.arange(60) // 6


def repeated(values: np.ndarray) -> np.ndarray:
    return np.repeat(values, TIMES)


def test_weighted_metrics_equal_those_of_repeated_rows() -> None:
    counted = measure(COUNTED_LABELS, COUNTED_SCORES, COUNTED_USERS, TIMES.astype(np.float64))
    single = measure(repeated(COUNTED_LABELS), repeated(COUNTED_SCORES), repeated(COUNTED_USERS))
    # Bins hold equal numbers of rows, so that they differ.
    assert {**counted, "ece": 0} == pytest.approx({**single, "ece": 0})
    curve = calibration(COUNTED_LABELS, COUNTED_SCORES, TIMES.astype(np.float64))
    assert sum(point.impressions for point in curve) == TIMES.sum()
    assert counted["ece"] == expected_calibration_error(curve)
    logits = np.log(COUNTED_SCORES / (1 - COUNTED_SCORES))
    line = fit_platt(logits, COUNTED_LABELS, TIMES.astype(np.float64))
    assert line(logits) == pytest.approx(fit_platt(repeated(logits), repeated(COUNTED_LABELS))(logits), rel=1e-3)


def test_weighted_resamples_equal_those_of_repeated_rows() -> None:
    counted = resample_metrics(COUNTED_LABELS, COUNTED_SCORES[None], COUNTED_USERS, 50, 0, TIMES.astype(np.float64))
    single = resample_metrics(repeated(COUNTED_LABELS), repeated(COUNTED_SCORES)[None], repeated(COUNTED_USERS), 50, 0)
    np.testing.assert_allclose(counted.auc, single.auc)
    np.testing.assert_allclose(counted.logloss, single.logloss)


def test_prior_counts_and_loss_weigh_impressions() -> None:
    rows = [("u", item, at, label) for at, item in enumerate("abcdefghij") for label in (0, 1)]
    shown = [90.0, 10.0] * 10
    dataset = dataset_of(
        rows, events={"impressions": shown}, items={"item_id": list("abcdefghij"), "title": ["t"] * 10}
    )
    schema = fit_schema(dataset, semantics=False)
    state = schema.state("user")
    assert state is not None
    assert state.prior == pytest.approx(0.1)
    features = build_features(dataset, schema, no_vectors())
    assert features.timeline.user.live.impressions[-1] == pytest.approx(900, rel=1e-3)
    assert features.timeline.user.live.clicks[-1] == pytest.approx(90, rel=1e-3)
    # The loss of a constant is least at the click rate of impressions.
    events = np.arange(20)
    losses = [features.loss_of(torch.full((20,), float(np.log(p / (1 - p)))), events) for p in (0.05, 0.1, 0.2)]
    assert min(losses) == losses[1]


def _drawn(groups: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """The rows of each resample, one by one, as often as their group was drawn."""
    rng = np.random.default_rng(seed)
    held = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    return [
        np.concatenate([held[integer] for integer in rng.integers(0, len(held), len(held))]) for _ in range(resamples)
    ]


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32),
    users=st.integers(2, 12),
    digits=st.sampled_from([0, 1, 9]),
)
def test_resampling_weights_equal_repeated_rows(seed: int, users: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, users, 40)
    labels = (rng.random(40) < 0.4).astype(np.float64)
    probabilities = np.round(rng.random((2, 40)), digits)
    found = resample_metrics(labels, probabilities, groups, 6, seed)
    for number, rows in enumerate(_drawn(groups, 6, seed)):
        for model in range(2):
            clipped = np.clip(probabilities[model, rows], 1e-7, 1 - 1e-7)
            assert found.logloss[model, number] == pytest.approx(log_loss(labels[rows], clipped, labels=[0, 1]))
            if 0 < labels[rows].sum() < len(rows):
                expected = roc_auc_score(labels[rows], probabilities[model, rows])
                assert found.auc[model, number] == pytest.approx(expected)
            else:
                assert np.isnan(found.auc[model, number])


def test_resampling_in_chunks_is_seeded() -> None:
    rng = np.random.default_rng(0)
    n = 8_000
    assert n * 150 > 2 * _CELLS
    labels, groups = (rng.random(n) < 0.3).astype(np.float64), rng.integers(0, 500, n)
    probabilities = np.clip(0.3 + 0.1 * labels + 0.2 * rng.standard_normal((2, n)), 0.01, 0.99)
    found = resample_metrics(labels, probabilities, groups, 150, seed=1)
    assert found.auc.shape == found.logloss.shape == (2, 150)
    again = resample_metrics(labels, probabilities[1:], groups, 150, seed=1)
    assert np.array_equal(again.auc[0], found.auc[1])
    assert not np.array_equal(resample_metrics(labels, probabilities, groups, 150, seed=2).auc, found.auc)
    for model in range(2):
        low, high = np.quantile(found.auc[model], [0.025, 0.975])
        assert low < roc_auc_score(labels, probabilities[model]) < high


def test_intervals_and_p_by_hand() -> None:
    differences = np.arange(-1.0, 99.0)  # one below zero, one at it
    assert interval(differences) == pytest.approx((1.475, 95.525))
    assert two_sided_p(differences) == pytest.approx(2 * 3 / 101)
    assert two_sided_p(-differences) == pytest.approx(2 * 3 / 101)
    assert two_sided_p(np.ones(99)) == pytest.approx(2 / 100)


def test_unmeasurable_resamples_are_left_out() -> None:
    nothing = np.full(5, np.nan)
    assert (interval(nothing), two_sided_p(nothing)) == (None, None)
    assert interval(np.append(nothing, 1.0)) == (1.0, 1.0)
    assert compare(nothing[None], np.ones((1, 5))) == {"ci95": None, "p": None}
    labels, scores = np.array([0.0, 1, 0, 1]), np.array([[0.1, 0.4, 0.2, 0.9]])
    assert interval(resample_metrics(labels, scores, np.zeros(4, np.int64), 10).logloss[0]) is None, "a single user"


def test_compares_means_over_seeds() -> None:
    unequal = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert compare(unequal, np.array([[1.0, 2.0]]))["ci95"] == pytest.approx((1.0, 1.0))
    # Seeds that disagree widen the interval.
    ours = np.array([[0.1], [0.3]]) + np.zeros((2, 1_000))
    theirs = np.zeros((2, 1_000))
    assert compare(ours, theirs)["ci95"] == pytest.approx((0.2, 0.2))
    assert compare_by_seed(ours, theirs)["ci95"] == pytest.approx((0.1, 0.3))
    # Seed 0 of one with seed 0 of the other: what both share falls out.
    assert compare_by_seed(ours, ours - 0.05)["ci95"] == pytest.approx((0.05, 0.05))
