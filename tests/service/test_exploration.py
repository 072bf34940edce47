"""The first candidate: its probability equals the frequency with which it is drawn; equal seeds choose alike; certain,
priced and repeated candidates compete as they should."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.contract.uncertainty import Uncertainty
from service.scoring.exploration import (
    MOST_COMPETING,
    CompetingCandidates,
    Exploration,
    choose_first,
    competing,
    probability_of_first,
)

N = 6


def some(seed: int = 0, count: int = N, certain: int = 0) -> CompetingCandidates:
    """Candidates of comparable value; the first `certain` of them without uncertainty."""
    rng = np.random.default_rng(seed)
    std = rng.uniform(0.1, 0.8, count)
    std[:certain] = 0.0
    return CompetingCandidates(np.arange(count), rng.normal(0, 0.3, count), rng.normal(-2, 0.4, count), std)


@pytest.mark.parametrize("certain", [0, 1, 3, N])
def test_probabilities_are_the_frequencies_of_draws(certain: int) -> None:
    candidates = some(certain, certain=certain)
    draws = np.random.default_rng(1).standard_normal((200_000, N))
    values = candidates.log_scale - np.logaddexp(0, -(candidates.logit + candidates.std * draws))
    frequency = np.bincount(values.argmax(1), minlength=N) / len(draws)
    found = np.array([probability_of_first(candidates, one) for one in range(N)])

    assert found.sum() == pytest.approx(1, abs=1e-5)
    # Of 200,000 draws a share has a standard error of at most .0011.
    assert np.abs(found - frequency).max() < 0.005


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_probabilities_sum_to_one(seed: int, count: int, certain: int) -> None:
    candidates = some(seed, count, min(certain, count))
    total = sum(probability_of_first(candidates, one) for one in range(count))

    assert total == pytest.approx(1, abs=1e-4)


def test_a_better_and_a_more_uncertain_candidate_are_likelier() -> None:
    plain = CompetingCandidates(np.arange(3), np.zeros(3), np.array([-2.0, -2.0, -1.0]), np.array([0.2, 0.2, 0.2]))
    unsure = plain._replace(std=np.array([0.2, 0.9, 0.2]))

    assert probability_of_first(plain, 0) == pytest.approx(probability_of_first(plain, 1))
    assert probability_of_first(plain, 2) > 0.9
    assert probability_of_first(unsure, 1) > 3 * probability_of_first(unsure, 0)


def test_equal_seeds_choose_alike_and_the_share_is_kept() -> None:
    candidates, greedy = some(), 2
    choices = [choose_first(Exploration("thompson", 0.3, f"r{n}"), candidates, greedy) for n in range(4_000)]
    again = [choose_first(Exploration("thompson", 0.3, f"r{n}"), candidates, greedy) for n in range(50)]

    assert again == choices[:50]
    # Of 4,000 the share has a standard error of .007.
    assert 0.27 < np.mean([one.explored for one in choices]) < 0.33
    shown = np.bincount([one.first for one in choices], minlength=N) / len(choices)
    expected = {one.first: one.propensity for one in choices}
    for place, propensity in expected.items():
        assert shown[place] == pytest.approx(propensity, abs=0.03)
    assert sum(1 / one.propensity for one in choices if one.first == 1) / len(choices) == pytest.approx(1, abs=0.35)


def test_draws_do_not_change_between_releases() -> None:
    choices = [choose_first(Exploration("thompson", 1.0, f"r{n}"), some(), 0) for n in range(12)]

    assert [one.first for one in choices] == DRAWN


DRAWN = [1, 1, 0, 1, 1, 5, 5, 1, 1, 4, 0, 1]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_ucb_takes_the_upper_end_with_the_probability_of_its_share(share: float) -> None:
    candidates = CompetingCandidates(np.arange(2), np.zeros(2), np.array([-1.0, -1.2]), np.array([0.1, 0.8]))
    for n in range(40):
        choice = choose_first(Exploration("ucb", share, f"{n}"), candidates, 0)
        assert choice.first == (1 if choice.explored else 0)
        assert choice.propensity == pytest.approx(share if choice.explored else 1 - share)


def columns(count: int, **changes: object) -> dict[str, Any]:
    """Arguments of `competing`."""
    made: dict[str, Any] = {
        "ids": [f"i{n}" for n in range(count)],
        "pctr": np.full(count, 0.1, np.float32),
        "std": np.full(count, 0.5, np.float32),
        "ecpm": np.full(count, np.nan),
        "is_paid_by_click": np.ones(count, bool),
    }
    return made | changes


def test_only_priced_candidates_compete_and_only_click_prices_are_uncertain() -> None:
    ecpm = np.array([np.nan, 50.0, 0.0, 80.0])
    found = competing(**columns(4, ecpm=ecpm, is_paid_by_click=np.array([True, True, True, False])))

    assert found.places.tolist() == [1, 2, 3]
    assert found.std.tolist() == [0.5, 0.0, 0.0]
    assert np.exp(found.log_value(0.0)) == pytest.approx([50.0, 0.0, 80.0])
    assert competing(**columns(3)).places.tolist() == [0, 1, 2]


def test_without_any_value_the_first_place_wins() -> None:
    found = competing(**columns(3, ecpm=np.zeros(3)))
    choice = choose_first(Exploration("thompson", 1.0, "s"), found, 0)

    assert (choice.first, choice.propensity) == (0, 1.0)


def test_a_repeated_id_competes_once() -> None:
    found = competing(**columns(4, ids=["a", "b", "a", "b"]))

    assert found.places.tolist() == [0, 1]


def test_scores_of_zero_and_one_are_drawn_too() -> None:
    found = competing(**columns(3, pctr=np.array([0, 1, 0.5], np.float32)))
    choice = choose_first(Exploration("thompson", 1.0, "s"), found, 1)

    assert choice.first == 1
    assert choice.propensity == pytest.approx(1.0)


def test_at_most_two_hundred_compete() -> None:
    pctr = np.linspace(0.01, 0.5, 2_000).astype(np.float32)
    found = competing(**columns(2_000, pctr=pctr, std=np.full(2_000, 0.5, np.float32)))

    assert found.places.tolist() == list(range(2_000 - MOST_COMPETING, 2_000))
    # The best by its score may be none of them; it still has the probability of not exploring.
    choice = choose_first(Exploration("ucb", 0.0, "s"), found, 3)
    assert (choice.first, choice.propensity) == (3, 1.0)


def test_what_is_known_makes_certain() -> None:
    uncertainty = Uncertainty(new=0.6, information=0.5, floor=0.1)
    std = uncertainty.logit_std(np.array([0.0, 10.0, 1_000.0, 1e9]), np.full(4, 0.1, np.float32))

    assert std.dtype == np.float32
    assert std[0] == pytest.approx(np.hypot(0.6, 0.1))
    assert (np.diff(std) < 0).all()
    assert std[-1] == pytest.approx(0.1, abs=1e-3)
