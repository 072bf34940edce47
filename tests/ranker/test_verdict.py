"""A verdict follows the interval, not the gain, and compares like with like."""

import numpy as np
import pytest

from msd.evaluation.verdict import ServedScores, judge_semantics, say

N, USERS = 600, 30
LABELS = (np.arange(N) % 3 == 0).astype(np.float64)
OWNERS = np.arange(N) % USERS


def _said(noise: float, seed: int, semantics: bool, name: str, network: str = "msd") -> ServedScores:
    """Three seeds that know the labels as well as their noise allows."""
    drawn = np.random.default_rng(seed).normal(0, noise, (3, N))
    return ServedScores(name, network, (0, 1, 2), semantics, 1 / (1 + np.exp(-(LABELS + drawn))))


def _judge(*served: ServedScores) -> dict[str, object] | None:
    return judge_semantics(served, LABELS, OWNERS, 200, 0)


@pytest.mark.parametrize(
    ("noise", "sure", "told"),
    [
        ((0.5, 3.0), True, "semantics: sure gain of +"),
        ((1.0, 1.0), False, "semantics: no sure gain, "),
        ((3.0, 0.5), False, "semantics: sure loss, -"),
    ],
)
def test_the_interval_decides(noise: tuple[float, float], sure: bool, told: str) -> None:
    verdict = _judge(_said(noise[1], 2, False, "plain"), _said(noise[0], 1, True, "ours"))
    assert verdict is not None
    assert (verdict["sure"], verdict["model"], verdict["minus"]) == (sure, "ours", "plain")
    said = say(verdict)
    assert said.startswith(told)
    assert said.endswith("serve ours" if sure else "serve plain")
    assert "95 % over users and seeds" in said


def test_other_networks_and_models_of_one_kind_are_no_pair() -> None:
    ours = _said(1.0, 1, True, "ours")
    assert _judge(ours, _said(1.0, 2, False, "din", "din")) is None
    assert _judge(ours) is None
    assert _judge() is None


def test_models_of_other_seeds_are_compared_over_users_alone() -> None:
    plain = _said(3.0, 2, False, "plain")
    verdict = _judge(_said(0.5, 1, True, "ours"), plain._replace(seeds=(0,), live=plain.live[:1]))
    assert verdict is not None
    assert verdict["unit"] == "users"
    assert verdict["sure"]
