"""When the lean graph takes over and when it ends, told by seconds: no test here waits or measures."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Overloaded
from service.scoring.admission import Admission, Admitted, Load
from service.scoring.brownout import Brownout
from service.scoring.job import Ran, Runner
from service.scoring.run_queue import RunQueue
from service.telemetry.metrics import Metrics
from tests.service.test_run_queue import CountingRuntime

FULL, LEAN = 1.0, 0.2
# So far away that the test's own time is nothing.
LEFT_S = 10.0


def gauge(metrics: Metrics) -> float:
    """What `msd_brownout` says."""
    (family,) = [one for one in metrics.families.collect() if one.name == "msd_brownout"]
    return family.samples[0].value


def admitted(admission: Admission, load: Load) -> list[Admitted]:
    """As many of the same as are accepted at once."""
    found: list[Admitted] = []
    try:
        while len(found) < 1_000:
            found.append(admission.enter(load, time.perf_counter() + LEFT_S))
    except Overloaded:
        return found
    raise AssertionError("there is no end")


def test_the_lean_graph_takes_over_before_any_is_refused() -> None:
    metrics = Metrics()
    without = admitted(Admission(Metrics(), 10_000), Load(10, FULL))
    found = admitted(Admission(metrics, 10_000), Load(10, FULL, LEAN))

    assert [one.is_lean for one in without] == [False] * 4
    # Three of a second each, which begin within four tenths of the time; then lean ones, up to half of it.
    assert [one.is_lean for one in found] == [False] * 3 + [True] * (len(found) - 3)
    assert len(found) == pytest.approx(3 + (LEFT_S / 2 - 3) / LEAN, abs=1)
    assert [one.load.seconds for one in found[2:4]] == [FULL, LEAN]
    assert gauge(metrics) == 1


def test_what_may_not_be_lean_is_judged_as_ever() -> None:
    admission = Admission(Metrics(), 10_000)
    lean = [one for one in admitted(admission, Load(10, FULL, LEAN)) if one.is_lean]
    assert lean
    with pytest.raises(Overloaded):
        admission.enter(Load(10, FULL), time.perf_counter() + LEFT_S)


def test_a_long_run_on_an_idle_service_is_no_reason() -> None:
    """It is scored in full, however near its deadline is."""
    admission = Admission(Metrics(), 10_000)
    for _ in range(10):
        one = admission.enter(Load(10, 0.9 * LEFT_S, LEAN), time.perf_counter() + LEFT_S)
        assert not one.is_lean
        admission.leave(one)


def test_it_ends_when_the_full_model_could_score_what_is_offered() -> None:
    metrics = Metrics()
    brownout = Brownout(metrics, threads=2)
    brownout.begin(100.0)
    now = 100.0
    # Six tenths of a second of work every tenth, for two threads: three times what they can do.
    for _ in range(30):
        now += 0.1
        brownout.offer(now, 0.6)
    assert brownout.is_on
    assert brownout.offered(now) == pytest.approx(3.0, rel=0.1)
    for _ in range(30):
        now += 0.1
        brownout.offer(now, 0.18)  # nine tenths
    assert brownout.is_on
    for _ in range(30):
        now += 0.1
        brownout.offer(now, 0.1)  # half
    assert not brownout.is_on
    assert gauge(metrics) == 0


def test_without_any_request_the_gauge_falls_too() -> None:
    metrics = Metrics()
    brownout = Brownout(metrics, threads=1)
    brownout.offer(time.perf_counter(), 9.0)
    brownout.begin(time.perf_counter())
    assert gauge(metrics) == 1
    long_ago = time.perf_counter() - 60
    brownout = Brownout(metrics, threads=1)
    brownout.offer(long_ago, 9.0)
    brownout.begin(long_ago)
    assert brownout.is_on
    assert gauge(metrics) == 0


@given(st.lists(st.tuples(st.floats(0.0, 0.2), st.floats(0.0, 0.1)), max_size=50))
def test_it_lasts_a_second_whatever_is_offered(offers: list[tuple[float, float]]) -> None:
    brownout = Brownout(Metrics(), threads=1)
    brownout.begin(5.0)
    now = 5.0
    for pause, seconds in offers:
        now += pause
        brownout.offer(now, seconds)
        if now - 5.0 < 1.0:
            assert brownout.is_on


def test_meanwhile_one_request_a_second_is_scored_in_full() -> None:
    """Else the time that a full run takes would never be learned again."""
    brownout = Brownout(Metrics(), threads=1)
    brownout.begin(0.0)
    probes = [at / 10 for at in range(50) if brownout.probes(at / 10)]
    assert probes == [1.0, 2.0, 3.0, 4.0]


def test_with_too_little_time_for_the_full_model_the_lean_one_scores_all() -> None:
    """Rather than the full one the first few."""
    metrics, full, lean = Metrics(), CountingRuntime(), CountingRuntime()
    queue, runners = RunQueue(metrics, Admission(metrics, 1_000)), (Runner(full), Runner(lean))
    runners[0].run_s.learn(200, 1_000.0)

    async def run() -> Ran:
        tensors = {"x": np.arange(200)}
        cut = lambda count: {"x": np.arange(count + 1)}  # noqa: E731
        until = time.perf_counter() + 60
        return await queue.run(runners[0], tensors, 200, until, lambda: False, cut, lean=runners[1])

    try:
        ran = asyncio.run(run())
    finally:
        queue.close()
    assert (ran.is_lean, ran.is_partial) == (True, False)
    assert (full.runs, lean.runs) == ([], [0])
    assert runners[1].run_s.of(200, -1.0) >= 0
