"""Texts that are encoded together: each once, alike lengths side by side, no run longer than allowed."""

from hypothesis import given
from hypothesis import strategies as st

from service.cold.encoding import runs_of


@given(lengths=st.lists(st.integers(1, 40), max_size=60), most=st.integers(1, 100))
def test_runs_hold_each_row_once_the_shortest_first(lengths: list[int], most: int) -> None:
    runs = runs_of([[7] * length for length in lengths], most)

    assert sorted(place for run in runs for place in run) == list(range(len(lengths)))
    assert [lengths[place] for run in runs for place in run] == sorted(lengths)
    for run in runs:
        assert len(run) == 1 or len(run) * max(lengths[place] for place in run) <= most
    # None of them has room for the first row of the next.
    for run, after in zip(runs, runs[1:], strict=False):
        assert (len(run) + 1) * lengths[after[0]] > most
