"""What the best of services could come to."""

import math

import pytest

from lab.bench.limits import latency_limits, throughput_limit


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_waits_by_the_law_of_its_queue(load: float) -> None:
    # Of M/D/1, P(wait ≤ t) = (1 − ρ) exp(ρ t) while t < 1.
    shares = [100 * (1 - load) * math.exp(load * wait) for wait in (0.25, 0.5, 0.75)]
    assert latency_limits(1, load, tuple(shares)) == pytest.approx([1.25, 1.5, 1.75], abs=0.02)


def test_more_servers_with_one_queue_wait_less() -> None:
    tails = [latency_limits(servers, 0.7, (99,))[0] for servers in (1, 2, 4, 16)]
    assert tails == sorted(tails, reverse=True)
    assert tails[-1] > 1.0


def test_nobody_waits_where_next_to_nobody_comes() -> None:
    assert latency_limits(2, 0.001, (50, 99)) == [1.0, 1.0]


def test_the_throughput_is_that_of_the_runs() -> None:
    assert throughput_limit(cores=2, run_s=0.001, rival_rate=200) == 10.0
