"""The histogram's percentiles are numpy's, to its resolution."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram, middle_of, place_of


def _of(seconds: "np.ndarray | list[float]") -> Histogram:
    histogram = Histogram()
    for one in seconds:
        histogram.record(float(one))
    return histogram


@pytest.mark.parametrize("percent", [0.1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_those_of_numpy(percent: float) -> None:
    seconds = np.random.default_rng(0).lognormal(-6, 1.2, 20_000)

    expected = 1e3 * np.percentile(seconds, percent, method="inverted_cdf")
    assert _of(seconds).percentile_ms(percent) == pytest.approx(expected, rel=0.005, abs=1e-3)


@given(st.integers(0, 2**30 - 1))
def test_a_bucket_is_as_narrow_as_its_place_allows(microseconds: int) -> None:
    place = place_of(microseconds)

    assert abs(middle_of(place) - microseconds) <= max(0.5, microseconds / 256)
    assert place_of(int(middle_of(place))) == place
    assert place_of(microseconds + 1) in (place, place + 1)


@given(st.lists(st.floats(0, 2_000), min_size=1, max_size=50), st.lists(st.floats(0, 2_000), max_size=50))
def test_together_is_as_one(some: list[float], others: list[float]) -> None:
    together, one = _of(some), _of(some + others)
    together.add(_of(others))

    assert (together.count, together.greatest) == (one.count, one.greatest)
    assert together.mean_ms == pytest.approx(one.mean_ms)
    for percent in (1, 50, 99):
        assert together.percentile_ms(percent) == one.percentile_ms(percent) <= 1e3 * one.greatest


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(Histogram().percentile_ms(50))
    assert math.isnan(Histogram().mean_ms)


def test_hours_and_negative_durations_are_kept_too() -> None:
    histogram = _of([-1e-9, 1e5])

    assert histogram.count == 2
    assert histogram.percentile_ms(100) > 1e6
