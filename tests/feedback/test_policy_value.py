"""Estimates of a policy's value: on a known law their intervals hold its value at the nominal rate; right propensities
mend a wrong model; and on the Open Bandit Dataset they are those of its own library."""

import json
from pathlib import Path

import numpy as np
import pytest

from msd.feedback.policy_value import ExploredRequests, Rewards, support, value_of

RECORDED = json.loads((Path(__file__).parent / "open_bandit.json").read_text("utf-8"))


def law(seed: int, requests: int = 2_000, bias: float = 0.0, wrong: float = 1.0) -> tuple[ExploredRequests, float]:
    """Explored requests of users who click unlike each other, and the value of the target, the best of 4 candidates.

    `bias` is added to the model's predictions; propensities are multiplied by `wrong`.
    """
    rng = np.random.default_rng(seed)
    users = rng.integers(0, requests // 4, requests)
    chances = np.clip(rng.uniform(0.02, 0.3, (requests, 4)) + rng.normal(0, 0.05, requests // 4)[users, None], 0.01, 1)
    policy = rng.dirichlet(np.full(4, 2.0), requests) * 0.8 + 0.05
    cut = policy.cumsum(1)
    shown = (rng.random(requests)[:, None] > cut).sum(1).clip(max=3)
    place, target = np.arange(requests), chances.argmax(1)
    clicked = (rng.random(requests) < chances[place, shown]).astype(float)
    predicted = chances + bias
    rewards = Rewards(clicked, predicted[place, shown], predicted[place, target])
    rows = ExploredRequests(users, wrong * policy[place, shown], (shown == target).astype(float), {"ctr": rewards})
    return rows, float(chances[place, target].mean())


@pytest.mark.parametrize("bias", [0.0, 0.2])
def test_intervals_hold_the_value_at_their_rate(bias: float) -> None:
    covered = np.zeros(3)
    errors = np.zeros((60, 3))
    for seed in range(60):
        rows, value = law(seed, bias=bias)
        found = value_of(rows, "ctr", resamples=200)[1:]
        covered += [one.ci95[0] <= value <= one.ci95[1] for one in found]
        errors[seed] = [one.value - value for one in found]

    # Of 60 at 95 % fewer than 51 hold it once in 2,000.
    assert (covered >= 51).all()
    # A wrong model leaves DR unbiased, because the propensities are right.
    assert (np.abs(errors.mean(0)) < 4 * errors.std(0) / np.sqrt(60)).all()


def test_a_right_model_makes_dr_surer_than_ips() -> None:
    rows, _ = law(1)
    found = value_of(rows, "ctr")
    width = [high - low for _, (low, high) in (found.ips, found.dr)]

    assert width[1] < width[0]


def test_wrong_propensities_show_in_the_mean_weight() -> None:
    assert support(law(1)[0]).is_whole
    assert not support(law(1, wrong=0.7)[0]).is_whole


def test_a_target_that_could_not_be_first_is_told() -> None:
    rows = law(1)[0]
    never = ExploredRequests(rows.users, rows.propensity, 0 * rows.target, rows.rewards)

    assert not support(never).is_whole
    assert support(never).effective == 0
    assert np.isnan(value_of(never, "ctr").snips.value)


def test_the_target_that_was_served_has_its_own_mean() -> None:
    rows = law(2)[0]
    same = ExploredRequests(rows.users, rows.propensity, rows.propensity, rows.rewards)
    found = value_of(same, "ctr")

    assert found.ips == found.snips == found.logged
    assert support(same).effective == pytest.approx(len(rows.users))


def test_estimates_are_those_of_open_bandits_library() -> None:
    predicted = np.array(RECORDED["predicted"])
    item, _, click, propensity = (np.array(column) for column in zip(*RECORDED["rows"], strict=True))
    count = len(item)
    rewards = Rewards(click.astype(float), predicted[item], np.full(count, predicted.mean()))
    rows = ExploredRequests(np.arange(count), propensity, np.full(count, 1 / len(predicted)), {"ctr": rewards})
    found = value_of(rows, "ctr", resamples=50)

    assert found.ips.value == pytest.approx(RECORDED["estimates"]["ips"], abs=1e-9)
    assert found.snips.value == pytest.approx(RECORDED["estimates"]["snips"], abs=1e-9)
    assert found.dr.value == pytest.approx(RECORDED["estimates"]["dr"], abs=1e-9)
    assert found.ips.value > 0.01, "the clicks are among the rows"
