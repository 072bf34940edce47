"""Where the time does not suffice for all candidates: how many are scored, what the others get, who says so."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd.contract.assemble import Rung, Tensors
from service.errors import DeadlineExceeded
from service.runtimes.runtime import Engine, Scores
from service.scoring.admission import Admission
from service.scoring.job import LearnedSeconds, Ran, Runner
from service.scoring.reply import declared, spread
from service.scoring.run_queue import RunQueue
from service.telemetry.metrics import Metrics

IDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=20)


def scores_of(ids: Sequence[str], count: int) -> Scores:
    """Of the first so many, each its own letter's, and of an unknown item."""
    pctr = np.array([*(float(ord(one)) for one in ids[:count]), 0.5], np.float32)
    return {"pctr": pctr, "other": -pctr}


@given(IDS, st.data())
def test_every_candidate_has_one_score_and_is_marked_if_it_is_the_priors(ids: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(ids)))
    cached: dict[str, Rung] = {one: "cached" for one in data.draw(st.sets(st.sampled_from(ids)))}
    found, marks = spread(scores_of(ids, count), ids), declared(scores_of(ids, count), ids, cached)

    assert {head: len(column) for head, column in found.items()} == {"pctr": len(ids), "other": len(ids)}
    for one, score in zip(ids, found["pctr"].tolist(), strict=True):
        assert score == (ord(one) if one in ids[:count] else 0.5)
        assert (marks.get(one) == "prior") == (one not in ids[:count])
        if one in ids[:count]:
            assert marks.get(one) == cached.get(one)
    assert found["other"].tolist() == (-found["pctr"]).tolist()
    assert set(marks) <= set(ids)


@given(
    st.dictionaries(st.integers(1, 2_000), st.floats(1e-5, 1.0), max_size=12),
    st.integers(1, 2_000),
    st.floats(1e-6, 1.0),
)
def test_never_more_is_run_than_is_asked_for_nor_a_run_of_nobody(
    known: dict[int, float], rows: int, seconds: float
) -> None:
    learned = LearnedSeconds(share=0.25, most=4.0)
    for size, took in known.items():
        learned.learn(size, took)
    expected = learned.of(rows, 0.0)
    fitting = learned.fitting(rows, seconds)

    # Beside the candidates runs an unknown item: of three rows, two are candidates.
    assert fitting in (0, rows) or 3 <= fitting < rows
    assert (fitting == rows) == (expected <= seconds)
    if 0 < fitting < rows:
        assert learned.of(fitting, 0.0) <= seconds


def test_what_was_learned_of_another_time_is_forgotten() -> None:
    learned = LearnedSeconds(share=0.25, most=4.0)
    learned.learn(200, 0.1)
    cuts = 0
    while learned.fitting(200, 0.01) < 200:
        cuts += 1
    assert 1 < cuts < 20


class Proportional:
    """A runtime that takes a tenth of a millisecond a row, and answers with the rows' own numbers."""

    engine = Engine("proportional", "1", "none", 1, "fp32", ())

    def run(self, tensors: Tensors) -> Scores:
        """Scores are what came."""
        time.sleep(1e-4 * len(tensors["x"]))
        return {"pctr": tensors["x"].astype(np.float32)}

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        """None."""
        return ()


def run_with(left_s: float) -> Ran:
    """A run of 200 whose time is known to be 20 ms, with so long to go."""
    metrics = Metrics()
    queue, runner = RunQueue(metrics, Admission(metrics, 1_000)), Runner(Proportional())

    def first(count: int) -> Tensors:
        return {"x": np.array([*range(count), -1])}

    async def run() -> Ran:
        for _ in range(6):
            await queue.run(runner, {"x": np.arange(200)}, 200, time.perf_counter() + 60, lambda: False)
        return await queue.run(runner, {"x": np.arange(200)}, 200, time.perf_counter() + left_s, lambda: False, first)

    try:
        return asyncio.run(run())
    finally:
        queue.close()


def test_as_many_of_the_first_run_as_can_be_expected_to_end_in_time() -> None:
    ran = run_with(0.018)

    assert ran.is_partial
    pctr = ran.result["pctr"].tolist()
    assert 2 < len(pctr) < 200
    assert pctr == [*range(len(pctr) - 1), -1]


def test_with_time_enough_all_run() -> None:
    ran = run_with(10.0)

    assert not ran.is_partial
    assert ran.result["pctr"].tolist() == list(range(200))


def test_where_it_suffices_for_nothing_nothing_runs() -> None:
    with pytest.raises(DeadlineExceeded, match="too little time left"):
        run_with(0.002)
