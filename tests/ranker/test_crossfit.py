"""What is kept is surely better on users that did not choose it, and the gain that is told is not the luckiest's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from msd.training.crossfit import CrossfitError, UserHalves

USERS, EACH = 120, 20
OWNERS = np.repeat(np.arange(USERS), EACH)
ONES = np.ones(len(OWNERS))
LABELS = (np.random.default_rng(0).random(len(OWNERS)) < 0.4).astype(np.float64)
HALVES = UserHalves.of(LABELS, OWNERS, ONES)


def _said(noise: float, seed: int) -> NDArray[np.float64]:
    """Probabilities that know the labels as well as their noise allows."""
    drawn = np.random.default_rng(seed).normal(0, noise, len(LABELS))
    return np.asarray(1 / (1 + np.exp(-(LABELS + drawn))))


def test_halves_hold_every_row_once_and_a_users_rows_together() -> None:
    first, second = HALVES.halves
    assert sorted([*first.rows, *second.rows]) == list(range(len(LABELS)))
    assert not set(first.users) & set(second.users)
    assert len(set(first.users)) == len(set(second.users)) == USERS // 2


@pytest.mark.parametrize(
    ("noises", "kept", "told"),
    [
        ((1.0, 3.0, 2.0), "whole", "whole is kept: nothing else ranks either half of valid's users better"),
        ((2.0, 2.0, 2.0), "whole", "whole is kept: nothing else is surely better"),
        ((3.0, 3.0, 1.0), "second", "second instead of whole: "),
        ((3.0, 1.0, 2.0), "first", "first instead of whole: "),
    ],
)
def test_the_whole_is_kept_unless_another_is_surely_better(noises: tuple[float, ...], kept: str, told: str) -> None:
    names = ("whole", "first", "second")
    choice = HALVES.choose(
        {name: _said(noise, seed) for seed, (name, noise) in enumerate(zip(names, noises, strict=True))}
    )
    assert choice.kept == kept
    assert choice.say().startswith(told)
    assert choice.ci95 is not None
    assert (choice.ci95[0] > 0) == (kept != "whole")
    assert choice.ci95[0] <= choice.gain <= choice.ci95[1]
    assert list(choice.tried) == list(names)
    assert choice.tried["whole"].gain == 0


def test_among_equals_the_whole_is_kept_and_else_the_simpler() -> None:
    better, worse = _said(1.0, 1), _said(3.0, 0)
    assert HALVES.choose({"whole": better, "same": better}).kept == "whole"
    assert HALVES.choose({"whole": worse, "simple": better, "more": better}).by_half == ("simple", "simple")
    # Each half prefers another of two, neither of which is surely better on both.
    first = np.isin(OWNERS, HALVES.halves[0].users)
    little = 0.02 * (LABELS - 0.5)
    one, other = np.where(first, better + little, better), np.where(first, better, better + little)
    choice = HALVES.choose({"whole": worse, "simple": one, "more": other})
    assert (choice.by_half, choice.kept) == (("simple", "more"), "simple")


def test_the_told_gain_is_not_that_of_the_luckiest() -> None:
    """Eight that are equally good: the best on the rows that it is chosen by gains, the choice does not."""
    some = OWNERS % 2 == 0
    some &= np.arange(len(OWNERS)) % EACH < 6
    halves = UserHalves.of(LABELS[some], OWNERS[some], ONES[some])
    told, luckiest = [], []
    for draw in range(12):
        choice = halves.choose({str(place): _said(2.0, 100 * draw + place)[some] for place in range(8)})
        told.append(choice.gain)
        luckiest.append(max(one.gain for one in choice.tried.values()))
    assert np.mean(luckiest) > 0.02
    assert abs(np.mean(told)) < np.mean(luckiest) / 2


def test_impressions_weigh() -> None:
    """A model that is right on the few rows that stand for many impressions is better."""
    heavy = OWNERS % 2 == 0
    said = {
        "whole": np.where(heavy, _said(9.0, 1), _said(0.5, 2)),
        "simple": np.where(heavy, _said(0.5, 3), _said(9, 4)),
    }
    for weights, kept in ((np.where(heavy, 50.0, 1.0), "simple"), (np.where(heavy, 1.0, 50.0), "whole")):
        assert UserHalves.of(LABELS, OWNERS, weights).choose(said).kept == kept


def test_rows_that_cannot_tell_are_refused() -> None:
    few = OWNERS < 39
    with pytest.raises(CrossfitError, match=r"valid rows are of 39 users, too few to choose by: 40 are needed"):
        UserHalves.of(LABELS[few], OWNERS[few], ONES[few])
    lonely = np.zeros(len(LABELS))
    lonely[0] = 1.0
    with pytest.raises(CrossfitError, match=r"all 1200 valid rows of one half of the users have label 0"):
        UserHalves.of(lonely, OWNERS, ONES)
