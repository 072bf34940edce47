"""Every row stands in one run, of one entity, and runs are as few as they can be."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.ranker.runs import random_runs


@settings(max_examples=30)
@given(users=st.lists(st.integers(0, 5), min_size=1, max_size=60), longest=st.integers(1, 9), seed=st.integers(0, 99))
def test_runs_hold_every_row_once_and_one_user_each(users: list[int], longest: int, seed: int) -> None:
    rows = np.array(users, np.int32)
    runs = random_runs(rows, longest, np.random.default_rng(seed))
    assert sorted(np.concatenate(runs).tolist()) == list(range(len(rows)))
    assert all(len(set(rows[run])) == 1 and 1 <= len(run) <= longest for run in runs)
    # No user is cut more often than it must be.
    assert len(runs) == sum(-(-count // longest) for count in np.unique(rows, return_counts=True)[1])


def test_runs_and_the_rows_in_them_are_drawn_by_the_generator() -> None:
    rows = np.repeat(np.arange(6, dtype=np.int32), 20)
    first, again, other = (np.concatenate(random_runs(rows, 4, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len({tuple(np.sort(run)) for run in random_runs(rows, 4, np.random.default_rng(3))}) == 30
    assert any(sorted(run) != list(run) for run in random_runs(rows, 4, np.random.default_rng(3)))
