"""Metrics against figures worked out by hand, and against scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from msd.dataset.load import load_dataset
from msd.dataset.split import Part
from msd.evaluation.baselines import counts_baseline
from msd.metrics import calibration, expected_calibration_error, measure, roc_auc
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from tests.dataset.tiny import write_tiny_dataset
from tests.ranker.made import word_vectors

LABELS = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
SCORES = np.array([0.9, 0.2, 0.3, 0.6, 0.1, 0.8])
# User 0 ranks both pairs right; user 1 one of two, in three rows; user 2 has one label only.
USERS = np.array([0, 0, 1, 1, 1, 2])


def test_metrics_by_hand() -> None:
    found = measure(LABELS, SCORES, USERS)
    assert found["auc"] == pytest.approx(8 / 9)
    assert found["uauc"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["gauc"] == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    loss = -np.mean(np.log([0.9, 0.8, 0.3, 0.4, 0.9, 0.8]))
    assert found["logloss"] == pytest.approx(loss)
    assert found["normalised_entropy"] == pytest.approx(loss / np.log(2))
    assert found["predicted_over_observed"] == pytest.approx(2.9 / 3)


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(2_000)
    labels = (rng.random(2_000) < scores).astype(np.float64)
    found = measure(labels, scores, rng.integers(0, 40, 2_000))
    assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["logloss"] == pytest.approx(log_loss(labels, scores))
    assert found["ece"] is not None
    assert found["ece"] < 0.05


def test_the_order_of_rows_does_not_matter() -> None:
    order = np.random.default_rng(2).permutation(len(LABELS))
    assert measure(LABELS[order], SCORES[order], USERS[order]) == pytest.approx(measure(LABELS, SCORES, USERS))


def test_users_of_one_label_alone_leave_no_figure() -> None:
    found = measure(LABELS, SCORES, np.arange(len(LABELS)))
    assert (found["gauc"], found["uauc"]) == (None, None)
    assert found["auc"] == pytest.approx(8 / 9)


def test_certain_predictions_have_a_finite_loss() -> None:
    found = measure(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0, 0]))
    assert found["logloss"] == pytest.approx(-np.log(1e-7), rel=1e-3)


def test_calibration_by_hand() -> None:
    curve = calibration(LABELS, SCORES, bins=2)
    assert [one.impressions for one in curve] == [3, 3]
    assert [one.predicted for one in curve] == pytest.approx([0.2, 2.3 / 3])
    assert [one.observed for one in curve] == pytest.approx([1 / 3, 2 / 3])
    assert expected_calibration_error(curve) == pytest.approx((1 / 3 - 0.2 + 0.1) / 2)


def test_fewer_rows_than_bins_give_a_bin_each() -> None:
    curve = calibration(LABELS, SCORES)
    assert [one.impressions for one in curve] == [1] * len(LABELS)
    assert [one.predicted for one in curve] == sorted(SCORES)


def test_the_baseline_learns_from_counts_without_ids_or_vectors(tmp_path: Path) -> None:
    dataset = load_dataset(write_tiny_dataset(tmp_path / "dataset", users=60))
    features, plain = (
        build_features(dataset, fit_schema(dataset, semantics=semantics), word_vectors(dataset))
        for semantics in (True, False)
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
def test_auc_counts_pairs_and_a_tie_by_half(rows: list[tuple[bool, float]]) -> None:
    labels, scores = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    if 0 < labels.sum() < len(labels):
        found = roc_auc(labels, scores)
        assert found == pytest.approx(roc_auc_score(labels, scores))
        assert type(found) is float  # what is compared with one of numpy's cannot be written as JSON
    else:
        assert np.isnan(roc_auc(labels, scores))
