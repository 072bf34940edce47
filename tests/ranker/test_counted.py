"""Events that stand for many impressions: every figure is what it would be with a row for each of them."""

import numpy as np
import pytest
import torch

from msd.bootstrap import resample_metrics
from msd.contract.state import EntityState, Event, StateRule, fold
from msd.metrics import calibration, expected_calibration_error, measure
from msd.ranker.calibrate import fit_platt
from msd.ranker.features import build_features
from msd.ranker.schema_fit import fit_schema
from msd.student.vectors import no_vectors
from tests.ranker.made import dataset_of

RNG = np.random.default_rng(3)
SCORES = RNG.random(60).round(1) * 0.9 + 0.05
LABELS = (RNG.random(60) < SCORES).astype(np.float64)
TIMES = RNG.integers(1, 9, 60)
USERS = np.arange(60) // 6


def repeated(values: np.ndarray) -> np.ndarray:
    return np.repeat(values, TIMES)


def test_metrics_are_those_of_repeated_rows() -> None:
    counted = measure(LABELS, SCORES, USERS, TIMES.astype(np.float64))
    single = measure(repeated(LABELS), repeated(SCORES), repeated(USERS))
    # Bins hold equal numbers of rows, so that they differ.
    assert {**counted, "ece": 0} == pytest.approx({**single, "ece": 0})
    curve = calibration(LABELS, SCORES, TIMES.astype(np.float64))
    assert sum(one.impressions for one in curve) == TIMES.sum()
    assert counted["ece"] == expected_calibration_error(curve)


def test_platt_is_that_of_repeated_rows() -> None:
    logits = np.log(SCORES / (1 - SCORES))
    counted = fit_platt(logits, LABELS, TIMES.astype(np.float64))
    assert counted == pytest.approx(fit_platt(repeated(logits), repeated(LABELS)), rel=1e-3)


def test_resamples_of_users_are_those_of_repeated_rows() -> None:
    counted = resample_metrics(LABELS, SCORES[None], USERS, 50, 0, TIMES.astype(np.float64))
    single = resample_metrics(repeated(LABELS), repeated(SCORES)[None], repeated(USERS), 50, 0)
    np.testing.assert_allclose(counted.auc, single.auc)
    np.testing.assert_allclose(counted.logloss, single.logloss)


def test_an_event_of_many_folds_to_many_impressions_and_one_like() -> None:
    state = fold(StateRule(100.0, 5), EntityState(), Event(7.0, True, "a", times=3.0))
    assert state == EntityState(3.0, 3.0, 7.0, ((7.0, "a"),))


def test_prior_counts_and_loss_weigh_impressions() -> None:
    rows = [("u", item, at, label) for at, item in enumerate("abcdefghij") for label in (0, 1)]
    shown = [90.0, 10.0] * 10
    dataset = dataset_of(
        rows, events={"impressions": shown}, items={"item_id": list("abcdefghij"), "title": ["t"] * 10}
    )
    schema = fit_schema(dataset, semantics=False)
    state = schema.state("user")
    assert state is not None
    assert state.prior == pytest.approx(0.1)
    features = build_features(dataset, schema, no_vectors())
    assert features.timeline.live_user_counts.impressions[-1] == pytest.approx(900, rel=1e-3)
    assert features.timeline.live_user_counts.clicks[-1] == pytest.approx(90, rel=1e-3)
    # The loss of a constant is least at the click rate of impressions.
    events = np.arange(20)
    losses = [features.loss_of(torch.full((20,), float(np.log(p / (1 - p)))), events) for p in (0.05, 0.1, 0.2)]
    assert min(losses) == losses[1]
