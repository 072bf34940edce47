"""Which of several arms of a test is clicked most: by hand, and what no model can change."""

import numpy as np
import pytest

from msd.evaluation.within import CHANCE, Compared, how_sure, measure_within

# Two tests. The first has arms with 10, 30 and 20 clicks of 100 (rows without and with a click), the second 5 and 5.
CLICKS = np.array([10.0, 30.0, 20.0, 5.0, 5.0])
LABELS = np.tile([0.0, 1.0], 5)
SHOWN = np.stack([100 - CLICKS, CLICKS], 1).flatten()
GROUPS = np.repeat([7, 7, 7, 9, 9], 2)
ITEMS = np.repeat(np.arange(5), 2)


def compared() -> Compared:
    return Compared.of(LABELS, SHOWN, GROUPS, ITEMS)


def by_arm(*scores: float) -> np.ndarray:
    return compared().scores(SHOWN, np.repeat(scores, 2))


def test_arms_and_pairs_by_hand() -> None:
    held = compared()
    assert held.clicks.tolist() == CLICKS.tolist()
    assert held.shown.tolist() == [100.0] * 5
    # Arms of equal rates make no pair.
    assert list(zip(held.left.tolist(), held.right.tolist(), strict=True)) == [(1, 0), (2, 0), (1, 2)]
    assert held.z == pytest.approx(
        [0.2 / np.sqrt(0.2 * 0.8 * 0.02), 0.1 / np.sqrt(0.15 * 0.85 * 0.02), 0.1 / np.sqrt(0.25 * 0.75 * 0.02)]
    )


def test_figures_by_hand() -> None:
    models = {"good": by_arm(0.1, 0.3, 0.2, 0.1, 0.2)[None], "bad": by_arm(0.3, 0.1, 0.2, 0.1, 0.2)[None]}
    found = measure_within(compared(), models, "good", 100, 0)
    assert (found["groups"], found["pairs"], found["significant_pairs"]) == (2, 3, 2)
    values = {name: {metric: one["value"] for metric, one in told.items()} for name, told in found["models"].items()}
    assert values["good"] == {"pair_accuracy": 1.0, "significant_pair_accuracy": 1.0, "regret": 0.0}
    # It shows what is clicked 10 times of 100 where 30 could be had, in one of two tests.
    assert values["bad"] == pytest.approx({"pair_accuracy": 0.0, "significant_pair_accuracy": 0.0, "regret": 100.0})
    assert values[CHANCE] == pytest.approx({"pair_accuracy": 0.5, "significant_pair_accuracy": 0.5, "regret": 50.0})
    assert [(one["model"], one["minus"]) for one in found["differences"]] == [("good", "bad"), ("good", CHANCE)]
    assert found["differences"][0]["regret"]["difference"] == pytest.approx(-100.0)


def test_what_is_sure_rises_with_the_difference() -> None:
    rng = np.random.default_rng(0)
    groups, items = np.repeat(np.arange(300), 4), np.tile([0, 0, 1, 1], 300)
    truth = rng.normal(-3, 0.5, 600)
    shown = np.full(600, 4_000)
    clicks = rng.binomial(shown, 1 / (1 + np.exp(-truth)))
    weights = np.stack([shown - clicks, clicks], 1).flatten().astype(np.float64)
    held = Compared.of(np.tile([0.0, 1.0], 600), weights, groups, items)
    told = how_sure(held, truth + rng.normal(0, 0.5, 600))
    assert sum(int(step["pairs"]) for step in told) == len(held.z)
    assert told[0]["above"] == 0.0
    assert told[0]["right"] < 0.7 < 0.85 < told[-1]["right"]
    # Too few pairs tell nothing.
    assert how_sure(compared(), by_arm(0.1, 0.2, 0.3, 0.4, 0.5)) == []
