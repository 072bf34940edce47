"""Percentiles are exact, of several runs together as of one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.durations import Durations


def _of(seconds: list[float]) -> Durations:
    durations = Durations()
    for one in seconds:
        durations.record(one)
    return durations


@pytest.mark.parametrize(("percent", "expected"), [(0.1, 1.0), (50, 50.0), (99, 99.0), (99.9, 100.0), (100, 100.0)])
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(percent: float, expected: float) -> None:
    assert _of([one / 1e3 for one in range(100, 0, -1)]).percentile_ms(percent) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50), st.lists(st.floats(0, 1e5), max_size=50))
def test_together_is_as_one(some: list[float], others: list[float]) -> None:
    together, one = _of(some), _of(some + others)
    together.add(_of(others))

    assert together.count == one.count
    assert together.mean_ms == pytest.approx(one.mean_ms)
    assert [together.percentile_ms(percent) for percent in (1, 50, 99)] == [
        one.percentile_ms(percent) for percent in (1, 50, 99)
    ]
    assert one.percentile_ms(100) == 1e3 * max(some + others)


def test_of_nothing_there_is_no_percentile() -> None:
    assert math.isnan(Durations().percentile_ms(50))
    assert math.isnan(Durations().mean_ms)
