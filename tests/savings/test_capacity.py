"""The arithmetic of fleets, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.savings.capacity import Assumed, RequestCost, capacity


def test_a_fleet_by_hand() -> None:
    needed = capacity(RequestCost(200, 0.003, 0.002, 100_000_000), Assumed(1_000.0, 0.5, 3, 0.05))

    assert needed.cores == 4  # 1,000 requests of 2 ms take 2 cores, which may be half busy
    assert needed.machines == 2
    assert needed.memory == 400_000_000
    assert needed.per_hour == pytest.approx(0.2)
    assert needed.per_million == pytest.approx(0.2 / 3.6)  # 3.6 million requests an hour


@given(st.floats(1e-5, 100), st.floats(1, 1e7), st.floats(0.01, 1))
def test_cores_are_never_busier_than_they_may_be(cpu_s: float, requests_per_s: float, busy: float) -> None:
    needed = capacity(RequestCost(200, cpu_s, cpu_s, 1), Assumed(requests_per_s, busy))

    assert requests_per_s * cpu_s <= needed.cores * busy * (1 + 1e-9)
    assert (needed.cores - 1) * busy <= requests_per_s * cpu_s * (1 + 1e-9)
