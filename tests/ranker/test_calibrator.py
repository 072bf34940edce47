"""The calibrator in torch is the curve in numpy, whatever its knots."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd.ranker.calibrate import KNOTS, Curve, choose_calibration, fit_isotonic
from msd.ranker.calibrator import Calibrator

LOGITS = np.linspace(-12, 12, 401)


def calibrated(curve: Curve) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Torch's calibrated logits of LOGITS."""
    calibrator = Calibrator()
    calibrator.set(curve)
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = calibrator(torch.from_numpy(LOGITS).float()).numpy()
    return found


def test_it_starts_as_the_identity() -> None:
    np.testing.assert_allclose(Calibrator()(torch.from_numpy(LOGITS).float()).numpy(), LOGITS, atol=1e-6)


@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0.01, 3)), min_size=1, max_size=KNOTS),
    st.floats(-5, 5),
    st.floats(0.1, 3),
)
def test_torch_and_numpy_agree(steps: list[tuple[float, float]], start: float, outer_slope: float) -> None:
    knots, values = np.cumsum(np.array(steps), axis=0).T
    curve = Curve(knots + start, values - start, outer_slope)

    np.testing.assert_allclose(calibrated(curve), curve(LOGITS), atol=2e-4)


def test_what_is_set_can_be_read() -> None:
    calibrator = Calibrator()
    curve = Curve(np.array([-1.0, 0.5, 2.0]), np.array([-3.0, 0.0, 1.0]), 0.5)
    calibrator.set(curve)

    found = calibrator.curve()
    assert (found.knots.tolist(), found.values.tolist()) == (curve.knots.tolist(), curve.values.tolist())
    assert found.outer_slope == 0.5


def test_the_ranking_stays() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 4_000).clip(-4, 4)
    labels = (rng.random(4_000) < 1 / (1 + np.exp(-np.sinh(logits)))).astype(np.float64)

    assert (np.diff(calibrated(fit_isotonic(logits, labels))) > 0).all()


@pytest.mark.parametrize(("bend", "knots"), [(lambda x: 0.5 * x - 1, 1), (lambda x: x.clip(-3, 3) ** 3 / 2, 2)])
def test_the_way_that_fits_is_chosen(bend: object, knots: int) -> None:
    """A line where the truth is a line, a curve where it is bent."""
    assert callable(bend)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-bend(logits)))).astype(np.float64)

    assert min(len(choose_calibration(logits, labels).knots), 2) == knots
