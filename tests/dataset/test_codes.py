"""Whole numbers are codes where their values tell held-out clicks better than their order does."""

import numpy as np
import polars as pl
import pytest

from msd.dataset.afterwards import Shown
from msd.dataset.log.codes import probed
from msd.dataset.log.guess import Guess, guess

ROWS, VALUES = 20_000, 100


def judged(law: str, seed: int = 0) -> Guess:
    """The guess of a column of 100 numbers whose click rate is as the law says."""
    draws = np.random.default_rng(seed)
    numbers = draws.integers(1_000, 1_000 + VALUES, ROWS)
    place = (numbers - 1_000) / VALUES
    lure = {"order": place - 0.5, "codes": draws.normal(0, 0.5, VALUES)[numbers - 1_000], "noise": np.zeros(ROWS)}[law]
    clicks = draws.random(ROWS) < 1 / (1 + np.exp(1.5 - 2 * lure))
    shown = Shown(pl.Series([1] * ROWS), pl.Series(clicks).cast(pl.Int8))
    raw = pl.Series("c17", numbers)
    guessed = guess(raw, context=True)
    assert guessed.kind == "numeric"
    return probed(guessed, guessed.values, shown, pl.Series(range(ROWS)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("law", "kind"), [("order", "numeric"), ("codes", "categorical"), ("noise", "numeric")])
def test_kind_follows_the_law(law: str, kind: str, seed: int) -> None:
    found = judged(law, seed)
    assert found.kind == kind
    assert "held-out logloss" in found.reason
    if kind == "categorical":
        assert set(found.values.to_list()) == {str(1_000 + number) for number in range(VALUES)}


def test_missing_numbers_stay_missing() -> None:
    draws = np.random.default_rng(0)
    numbers = [int(one) if one % 7 else None for one in draws.integers(1_000, 1_050, ROWS)]
    shown = Shown(pl.Series([1] * ROWS), pl.Series([int((one or 0) % 5 == 0) for one in numbers]))
    guessed = guess(pl.Series("c17", numbers), context=True)
    found = probed(guessed, guessed.values, shown, pl.Series(range(ROWS)))
    assert found.kind == "categorical"
    assert found.values.null_count() == numbers.count(None)


def test_values_that_name_single_items_are_not_probed() -> None:
    prices = pl.Series("price", [float(100 + number) for number in range(50)])
    guessed = guess(prices)
    per_event = pl.concat([guessed.values] * 40)
    shown = Shown(pl.Series([1] * 2_000), pl.Series([number % 3 == 0 for number in range(2_000)]).cast(pl.Int8))
    assert probed(guessed, per_event, shown, pl.Series(range(2_000))) is guessed
