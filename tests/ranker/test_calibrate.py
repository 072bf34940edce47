"""The isotonic curve rises, keeps the ranking, and finds what bends; both ways are compared on rows not seen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from msd.ranker.calibrate import (
    KNOTS,
    Calibrator,
    Curve,
    choose_calibration,
    fit_isotonic,
)
from msd.ranker.uncertainty import AdRows, fit_uncertainty

Floats = NDArray[np.float64]


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _bent(seed: int, n: int = 6_000) -> tuple[Floats, Floats]:
    """Logits, and labels whose true logit rises steeply at first and then hardly at all: no slope and offset fit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    truth = np.where(logits < 0, 1.5 * logits, 0.1 * logits)
    return logits, (rng.random(n) < _sigmoid(truth)).astype(np.float64)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), n=st.integers(2, 300), digits=st.sampled_from([0, 2, 9]))
def test_isotonic_curve_rises_strictly_through_few_knots(seed: int, n: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 2, n), digits)
    labels = (rng.random(n) < 0.5).astype(np.float64)
    fitted = fit_isotonic(logits, labels)
    assert 1 <= len(fitted.knots) == len(fitted.values) <= KNOTS
    assert np.isfinite(fitted.values).all()
    assert (np.diff(fitted.knots) > 0).all()
    assert (np.diff(fitted.values) > 0).all()
    points = np.linspace(-20, 20, 401)
    assert (np.diff(fitted(points)) > 0).all()


def test_curve_passes_its_knots_and_continues_with_slope_one() -> None:
    fitted = fit_isotonic(*_bent(0))
    np.testing.assert_allclose(fitted(fitted.knots), fitted.values)
    ends = fitted.knots[[0, -1]] + np.array([-3.0, 5.0])
    np.testing.assert_allclose(fitted(ends), fitted.values[[0, -1]] + np.array([-3.0, 5.0]))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_isotonic_without_a_ranking_to_keep(label: float) -> None:
    logits = np.array([-2.0, 0.5, 3.0])
    np.testing.assert_array_equal(fit_isotonic(logits, np.full(3, label))(logits), logits)
    # A reversed ranking gives the base rate.
    many = np.linspace(-1, 1, 200)
    fitted = fit_isotonic(many, (many < 0).astype(np.float64))
    assert len(fitted.knots) == 1
    assert fitted(np.zeros(1)) == pytest.approx([0.0], abs=1e-9)


def test_few_rows_have_a_line() -> None:
    assert len(choose_calibration(np.arange(4.0), np.array([0.0, 1.0, 0.0, 1.0])).knots) == 1


LOGITS = np.linspace(-12, 12, 401)


@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.01, 3)), min_size=1, max_size=KNOTS),
    st.floats(-5, 5),
    st.floats(0.1, 3),
)
def test_calibrator_equals_its_curve(steps: list[tuple[float, float]], start: float, outer_slope: float) -> None:
    knots, values = np.cumsum(np.array(steps), axis=0).T
    curve = Curve(knots + start, values - start, outer_slope)
    calibrator, logits = Calibrator(), torch.from_numpy(LOGITS).float()
    np.testing.assert_allclose(calibrator(logits).numpy(), LOGITS, atol=1e-6)
    calibrator.set(curve)

    np.testing.assert_allclose(calibrator(logits).numpy(), curve(LOGITS), atol=2e-4)
    np.testing.assert_allclose(calibrator.curve()(LOGITS), curve(LOGITS), atol=2e-4)


@pytest.mark.parametrize(("bend", "knots"), [(lambda x: 0.5 * x - 1, 1), (lambda x: x.clip(-3, 3) ** 3 / 2, 2)])
def test_chooses_line_or_curve_by_the_law(bend: object, knots: int) -> None:
    assert callable(bend)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-bend(logits)))).astype(np.float64)

    assert min(len(choose_calibration(logits, labels).knots), 2) == knots


ADS, ROWS = 160, 30


def made(effect: float, seed: int) -> tuple[AdRows, AdRows]:
    """Rows of ads whose log-odds have an effect of their own: unknown to the scores as a new ad's, and half known."""
    rng = np.random.default_rng(seed)
    ads = np.repeat(np.arange(ADS), ROWS)
    base, own = rng.normal(-1.0, 0.5, ADS * ROWS), rng.normal(0, effect, ADS)
    labels = (rng.random(len(ads)) < 1 / (1 + np.exp(-base - own[ads]))).astype(np.float64)
    seen = rng.integers(0, 2_000, ADS).astype(np.float64)
    left = effect / np.sqrt(1 + effect**2 * seen * 0.2)
    # What the scores know of an effect, so that what is left has the law's deviation.
    known = own - rng.normal(0, 1, ADS) * left if effect else own
    known = known * (1 - (left / effect) ** 2) if effect else known
    return AdRows(base, np.zeros(len(ads)), labels, ads), AdRows(base + known[ads], seen[ads], labels, ads)


def test_uncertainty_matches_the_law() -> None:
    found = fit_uncertainty(*made(0.8, 1))

    assert 0.6 < found.new < 1.0
    new = found.coverage["new"]
    # Of 160 ads the shares have standard errors of .04 and .024.
    assert new.items == ADS
    assert 0.38 < new.within_50 < 0.62
    assert 0.83 < new.within_90 < 0.97
    assert found.coverage["frequent"].median_std < found.coverage["rare"].median_std < new.median_std


def test_uncertainty_is_small_without_an_effect() -> None:
    found = fit_uncertainty(*made(0.0, 2))

    assert found.new < 0.25
    assert found.coverage["new"].within_90 > 0.83


def test_single_ad_gives_the_prior() -> None:
    new, known = made(0.5, 3)
    first = new.ads < 2
    found = fit_uncertainty(new.of(first), known.of(first))

    assert 0.05 < found.new < 3
