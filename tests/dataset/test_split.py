"""The split: every user's events in time, cut at the floors, whatever order the rows come in."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.config import DatasetConfig, SplitConfig, load_config
from msd.dataset.load import load_dataset
from msd.dataset.problem import DatasetError
from msd.dataset.split import split_events
from tests.dataset.tiny import write_tiny_dataset


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    return load_config(write_tiny_dataset(tmp_path_factory.mktemp("tiny"), users=2))


# One user with 20 events makes sure that no part is empty; the others are anything, ties and repeats included.
ids = st.sampled_from(["1", "2", "10", "007", "7", "a", "b1", "9" * 25])
others = st.lists(st.tuples(st.sampled_from(["u1", "u2", "30", "4"]), ids, st.integers(0, 5), st.integers(0, 1)))


def frame_of(rows: list[tuple[str, str, int, int]]) -> pl.DataFrame:
    full = [*(("full", "1", time, 1) for time in range(20)), *rows]
    return pl.DataFrame(full, schema={"user_id": str, "item_id": str, "at": int, "label": pl.Int8}, orient="row")


def item_key(item: str) -> tuple[bool, int, str]:
    return (False, int(item), item) if item.isascii() and item.isdigit() else (True, 0, item)


@given(rows=others, cuts=st.sampled_from([(0.5, 0.8, 0.9), (0.29, 0.57, 0.86), (1 / 3, 0.7, 0.95)]))
@settings(max_examples=60, deadline=None)
def test_parts_follow_time_and_are_cut_at_their_floors_ties_staying_together(
    config: DatasetConfig, rows: list[tuple[str, str, int, int]], cuts: tuple[float, float, float]
) -> None:
    split = SplitConfig(profile_window=cuts[0], train=cuts[1], valid=cuts[2])
    events = frame_of(rows)
    parts = split_events(events, config.model_copy(update={"split": split}))
    assert parts.dtype == np.int8
    for (user,), own in events.with_columns(part=pl.Series(parts)).group_by("user_id"):
        edges = [math.floor(Fraction(str(cut)).limit_denominator(10**6) * own.height) for cut in cuts]
        placed = sorted((at, item_key(item), part) for _, item, at, _, part in own.rows())
        keys = [one[:2] for one in placed]
        middles = [keys.index(key) + (keys.count(key) - 1) // 2 for key in keys]
        due = [sum(middle >= edge for edge in edges) for middle in middles]
        assert [one[-1] for one in placed] == due, user


@given(rows=others, seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_makes_no_difference(
    config: DatasetConfig, rows: list[tuple[str, str, int, int]], seed: int
) -> None:
    events = frame_of(rows)
    turned = events.sample(fraction=1.0, shuffle=True, seed=seed)
    one, other = (frame.with_columns(part=pl.Series(split_events(frame, config))) for frame in (events, turned))
    assert sorted(one.rows()) == sorted(other.rows())


@given(rows=others, seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_labels_move_no_event(config: DatasetConfig, rows: list[tuple[str, str, int, int]], seed: int) -> None:
    events = frame_of(rows)
    labels = pl.Series(np.random.default_rng(seed).integers(0, 2, events.height).astype(np.int8))
    assert (split_events(events, config) == split_events(events.with_columns(label=labels), config)).all()


@given(rows=others)
@settings(max_examples=30, deadline=None)
def test_one_users_events_do_not_move_anothers(config: DatasetConfig, rows: list[tuple[str, str, int, int]]) -> None:
    assert (split_events(frame_of([]), config) == split_events(frame_of(rows), config)[:20]).all()


def test_cuts_are_taken_as_written(config: DatasetConfig) -> None:
    events = pl.DataFrame({"user_id": ["u"] * 100, "item_id": ["1"] * 100, "at": range(100), "label": [0] * 100})
    split = SplitConfig(profile_window=0.29, train=0.57, valid=0.58)
    parts = split_events(events, config.model_copy(update={"split": split}))
    assert np.bincount(parts).tolist() == [29, 28, 1, 42]


def test_an_empty_part_is_an_error_that_names_it(config: DatasetConfig) -> None:
    events = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["1", "2", "3"], "at": [1, 2, 3], "label": [0, 1, 1]})
    with pytest.raises(DatasetError, match="no event falls into the parts train, valid: 3 events of 2 users"):
        split_events(events, config)
    with pytest.raises(DatasetError, match="window, train, valid, test: 0 events of 0 users"):
        split_events(events.head(0), config)


def test_parts_are_aligned_with_the_datasets_events(tmp_path: Path) -> None:
    dataset = load_dataset(write_tiny_dataset(tmp_path))
    parts = split_events(dataset.events, dataset.config)
    assert np.bincount(parts).tolist() == [1500, 900, 300, 300]
    own = dataset.events.with_columns(part=pl.Series(parts)).filter(pl.col("user_id") == "u7")
    assert own["part"].to_list() == [0] * 25 + [1] * 15 + [2] * 5 + [3] * 5
