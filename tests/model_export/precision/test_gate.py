"""The gate lets rounding pass, and neither a loss of rank nor of calibration, nor what cannot be told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_export.precision.gate import AUC_BOUND, ECE_BOUND, LOGLOSS_BOUND, judge
from msd.metrics import measure_pooled

Floats = NDArray[np.float64]
ROWS = 6_000


def _world(rows: int = ROWS, users: int = 200) -> tuple[Floats, NDArray[np.int64], Floats]:
    rng = np.random.default_rng(11)
    logits = rng.normal(-1, 1.2, rows)
    probabilities = 1 / (1 + np.exp(-logits))
    return (rng.random(rows) < probabilities).astype(np.float64), rng.integers(0, users, rows), probabilities


def _logit(probabilities: Floats) -> Floats:
    return np.log(probabilities / (1 - probabilities))


def _moved(probabilities: Floats, by: Floats | float) -> Floats:
    return 1 / (1 + np.exp(-(_logit(probabilities) + by)))


def test_equal_scores_pass_with_nothing_lost() -> None:
    labels, users, plain = _world()
    verdict = judge(labels, users, plain, plain.copy())

    assert verdict.refused is None
    assert (verdict.auc_worst, verdict.logloss_worst) == (0.0, 0.0)
    measured = measure_pooled(labels, plain)
    assert verdict.metrics == {name: measured[name] for name in verdict.metrics}
    assert set(verdict.metrics) == {"auc", "logloss", "ece", "predicted_over_observed"}


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_rounding_passes(seed: int) -> None:
    labels, users, plain = _world()
    verdict = judge(labels, users, plain, _moved(plain, np.random.default_rng(seed).normal(0, 0.005, ROWS)))

    assert verdict.refused is None
    assert verdict.auc_worst is not None
    assert -AUC_BOUND < verdict.auc_worst < AUC_BOUND
    assert verdict.logloss_worst is not None
    assert verdict.logloss_worst < LOGLOSS_BOUND


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (np.random.default_rng(1).normal(0, 0.3, ROWS), "AUC may be lower by 0.0"),
        (0.05, "predicted over observed clicks moves by 0.0"),
        (np.where(np.arange(ROWS) % 2, 0.4, -0.4), "logloss may be higher by 0.0"),
    ],
)
def test_what_is_lost_is_named(by: Floats | float, said: str) -> None:
    labels, users, plain = _world()
    refused = judge(labels, users, plain, _moved(plain, by)).refused

    assert refused is not None
    assert said in refused


def test_lost_calibration_is_named() -> None:
    """Steeper, but as likely over all: rank and mean stay, each score is wrong."""
    labels, users, plain = _world()
    middle = _logit(plain).mean()
    verdict = judge(labels, users, plain, _moved(plain, 0.3 * (_logit(plain) - middle)))

    assert verdict.refused is not None
    assert f", more than {ECE_BOUND}" in verdict.refused
    assert "ECE is higher by 0.0" in verdict.refused
    assert "AUC" not in verdict.refused


def test_too_few_rows_to_tell_are_refused() -> None:
    """The same rounding as passes on more rows."""
    labels, users, plain = _world()
    some = slice(0, 60)
    noise = np.random.default_rng(2).normal(0, 0.08, 60)
    verdict = judge(labels[some], users[some], plain[some], _moved(plain[some], noise))

    assert verdict.refused is not None
    assert "AUC may be lower" in verdict.refused


def test_few_users_are_resampled_by_rows() -> None:
    """A log of one user would otherwise always have an interval of no width."""
    labels, _, plain = _world()
    other = _moved(plain, np.random.default_rng(3).normal(0, 0.02, ROWS))
    one = judge(labels, np.zeros(ROWS, np.int64), plain, other)
    rows = judge(labels, np.arange(ROWS), plain, other)

    assert (one.auc_worst, one.logloss_worst) == (rows.auc_worst, rows.logloss_worst)
    assert one.auc_worst != measure_pooled(labels, plain)["auc"] - measure_pooled(labels, other)["auc"]
