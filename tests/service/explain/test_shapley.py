"""Shapley values: the axioms that make them the only ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.explainer import shapley

WORTHS = st.integers(0, 4).flatmap(lambda players: arrays(np.float64, (2**players, 3), elements=st.floats(-9, 9)))


@given(WORTHS)
def test_shares_sum_to_what_all_are_worth_more_than_none(values: np.ndarray) -> None:
    np.testing.assert_allclose(shapley(values).sum(axis=0), values[-1] - values[0], atol=1e-12)


@given(arrays(np.float64, (8, 2), elements=st.floats(-9, 9)))
def test_who_changes_nothing_gets_nothing_and_the_others_as_without_him(values: np.ndarray) -> None:
    # A fourth player, bit 3, who adds nothing to anybody.
    shares = shapley(np.concatenate([values, values]))

    np.testing.assert_allclose(shares[3], 0.0, atol=1e-12)
    np.testing.assert_allclose(shares[:3], shapley(values), atol=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_what_adds_up_is_shared_as_it_adds_up(worths: list[float]) -> None:
    values = np.array([[sum(w for bit, w in enumerate(worths) if chosen >> bit & 1)] for chosen in range(16)])

    np.testing.assert_allclose(shapley(values)[:, 0], worths, atol=1e-12)


def test_two_who_earn_only_together_share_alike() -> None:
    # v({0, 1}) = 1, v({2}) = 0: the glove game with an onlooker.
    values = np.array([[0.0], [0.0], [0.0], [1.0], [0.0], [0.0], [0.0], [1.0]])

    assert shapley(values)[:, 0] == pytest.approx([0.5, 0.5, 0.0])
