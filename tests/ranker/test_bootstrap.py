"""Resampled metrics against those of rows that were really repeated; intervals and p of what is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from msd.bootstrap import _CELLS, compare, compare_by_seed, interval, resample_metrics, two_sided_p
from msd.metrics import roc_auc


def _drawn(groups: np.ndarray, resamples: int, seed: int) -> list[np.ndarray]:
    """The rows of each resample, one by one, as often as their group was drawn."""
    rng = np.random.default_rng(seed)
    held = [np.flatnonzero(groups == one) for one in np.unique(groups)]
    return [np.concatenate([held[one] for one in rng.integers(0, len(held), len(held))]) for _ in range(resamples)]


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    users=st.integers(2, 12),
    digits=st.sampled_from([0, 1, 9]),
)
def test_weights_measure_what_repeated_rows_do(seed: int, users: int, digits: int) -> None:
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


def test_many_rows_come_in_chunks_and_a_seed_fixes_them() -> None:
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


def test_the_interval_holds_the_spread_that_fresh_samples_have() -> None:
    rng = np.random.default_rng(3)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random(800) < 0.5).astype(np.float64)
        return labels, 1 / (1 + np.exp(-(labels + rng.standard_normal(800))))

    aucs = [roc_auc(*sample()) for _ in range(400)]
    labels, probabilities = sample()
    found = resample_metrics(labels, probabilities[None], np.arange(800), 400)
    assert found.auc.std() == pytest.approx(np.std(aucs), rel=0.25)


def test_users_whose_rows_agree_leave_less_certainty_than_rows_alone() -> None:
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(40), 50)
    lean = rng.standard_normal(40)[users]
    labels = (rng.random(2_000) < 1 / (1 + np.exp(-2 * lean))).astype(np.float64)
    probabilities = (1 / (1 + np.exp(-rng.standard_normal(40)[users])))[None]
    by_user = resample_metrics(labels, probabilities, users).auc.std()
    assert by_user > 2 * resample_metrics(labels, probabilities, np.arange(2_000)).auc.std()


def test_a_model_against_itself_differs_by_nothing() -> None:
    sample = np.random.default_rng(0).random((1, 100))
    assert compare(sample, sample) == {"ci95": (0.0, 0.0), "p": 1.0}


def test_intervals_and_p_by_hand() -> None:
    differences = np.arange(-1.0, 99.0)  # one below zero, one at it
    assert interval(differences) == pytest.approx((1.475, 95.525))
    assert two_sided_p(differences) == pytest.approx(2 * 3 / 101)
    assert two_sided_p(-differences) == pytest.approx(2 * 3 / 101)
    assert two_sided_p(np.ones(99)) == pytest.approx(2 / 100)


def test_resamples_that_cannot_be_measured_are_left_out() -> None:
    nothing = np.full(5, np.nan)
    assert (interval(nothing), two_sided_p(nothing)) == (None, None)
    assert interval(np.append(nothing, 1.0)) == (1.0, 1.0)
    assert compare(nothing[None], np.ones((1, 5))) == {"ci95": None, "p": None}


def test_a_single_user_has_no_interval() -> None:
    labels, scores = np.array([0.0, 1, 0, 1]), np.array([[0.1, 0.4, 0.2, 0.9]])
    drawn = resample_metrics(labels, scores, np.zeros(4, np.int64), 10)
    assert compare(drawn.auc, drawn.auc) == {"ci95": None, "p": None}
    assert interval(drawn.logloss[0]) is None


def test_means_over_seeds_are_compared_even_if_there_are_not_as_many() -> None:
    ours = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert compare(ours, np.array([[1.0, 2.0]]))["ci95"] == pytest.approx((1.0, 1.0))


def test_seeds_that_disagree_widen_the_interval() -> None:
    ours = np.array([[0.1], [0.3]]) + np.zeros((2, 1_000))
    theirs = np.zeros((2, 1_000))
    assert compare(ours, theirs)["ci95"] == pytest.approx((0.2, 0.2))
    assert compare_by_seed(ours, theirs)["ci95"] == pytest.approx((0.1, 0.3))
    # Seed 0 of one with seed 0 of the other: what both share falls out.
    assert compare_by_seed(ours, ours - 0.05)["ci95"] == pytest.approx((0.05, 0.05))
