"""Rows that stand for many impressions: two events at most, in one part; what is told when the counts are wrong."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.aggregate import count_clicks, with_labels
from msd.dataset.config import EventsConfig
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.problem import DatasetError
from msd.dataset.split import split_events
from msd.dataset.table import Table
from tests.dataset.small import CONFIG, spoil, write_small

COUNTED = CONFIG.replace('"events.csv"\n', '"events.csv"\nimpressions = "shown"\nclicks = "clicked"\n')
REPEATED = CONFIG.replace('"events.csv"\n', '"events.csv"\nimpressions = "shown"\n')
ROWS = "user_id,item_id,at,shown,clicked,device\n" + "".join(
    f"u{user},{(1, 2, 10)[(user + time) % 3]},{1_700_000_000 + time},{3 + time % 3},{time % 3},ios\n"
    for time in range(10)
    for user in range(1, 6)
)


def load(folder: Path, config: str = COUNTED, events: str = ROWS) -> Dataset:
    return load_dataset(write_small(folder, config=config, events=events))


def test_a_row_becomes_an_event_without_a_click_and_one_with(tmp_path: Path) -> None:
    events = load(tmp_path).events
    assert events.columns == ["user_id", "item_id", "at", "label", "device", "impressions"]
    assert count_clicks(events) == (5 * 39, 5 * sum(time % 3 for time in range(10)))
    fourth = events.filter((pl.col("user_id") == "u2") & (pl.col("at") == 1_700_000_005))
    assert fourth.select("label", "impressions", "device").rows() == [(0, 3.0, "ios"), (1, 2.0, "ios")]


def test_the_impressions_of_a_row_are_in_one_part(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    parts = dataset.events.with_columns(part=pl.Series(split_events(dataset.events, dataset.config)))
    assert parts.group_by("user_id", "at").agg(pl.col("part").n_unique())["part"].unique().to_list() == [1]
    assert sorted(parts["part"].unique()) == [0, 1, 2, 3]


def test_a_split_cuts_impressions_and_not_rows(tmp_path: Path) -> None:
    """As if each impression had been a row."""
    counted = load(tmp_path / "counted")
    parts = split_events(counted.events, counted.config)
    shown = counted.events["impressions"].cast(pl.Int64).to_numpy()
    single = counted.events.select("user_id", "item_id", "at", "label").select(
        pl.all().gather(np.repeat(np.arange(len(parts)), shown))
    )
    assert (split_events(single, counted.config) == np.repeat(parts, shown)).all()


def test_a_labelled_row_may_stand_for_several_impressions_alike(tmp_path: Path) -> None:
    events = load(tmp_path, REPEATED, ROWS.replace("clicked", "label").replace(",2,ios", ",1,ios")).events
    assert count_clicks(events) == (5 * 39, 5 * 27)


def test_a_row_of_no_impression_is_no_event(tmp_path: Path) -> None:
    events = load(tmp_path, events=spoil(ROWS, 1, "shown", "0")).events
    assert count_clicks(events.filter(pl.col("at") == 1_700_000_000)) == (4 * 3, 0)


@given(counts=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_sums_are_kept_whatever_the_counts(counts: list[tuple[int, int]]) -> None:
    shown, clicked = np.array([(one + other, other) for one, other in counts]).T
    table = Table("e.csv", pl.DataFrame({"shown": shown.astype(str), "clicked": clicked.astype(str)}))
    ids = pl.DataFrame({"user_id": [str(row) for row in range(len(counts))]})
    events = with_labels(ids, table, EventsConfig(file="e.csv", impressions="shown", clicks="clicked"))
    assert table.problems == []
    assert events.height <= 2 * len(counts)
    for (user,), rows in events.group_by("user_id"):
        assert count_clicks(rows) == (shown[int(str(user))], clicked[int(str(user))])
    assert count_clicks(events)[0] == shown.sum()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("clicked", "9", "events.csv, row 3, clicked: '9' is more than the impressions of its row"),
        ("clicked", "-1", "events.csv, row 3, clicked: '-1' should be a count: a whole number of at least 0"),
        ("clicked", "", "events.csv, row 3, clicked: the value is missing"),
        ("shown", "2.5", "events.csv, row 3, shown: '2.5' should be a count: a whole number of at least 0"),
        ("shown", "nan", "events.csv, row 3, shown: 'nan' should be a count: a whole number"),
        ("shown", "inf", "events.csv, row 3, shown: 'inf' should be a count: a whole number"),
        ("shown", "1e30", "events.csv, row 3, shown: '1e30' should be a count: a whole number"),
        ("shown", "many", "events.csv, row 3, shown: 'many' is not a number"),
        ("shown", "", "events.csv, row 3, shown: the value is missing"),
    ],
)
def test_a_wrong_count(tmp_path: Path, column: str, value: str, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        load(tmp_path, events=spoil(ROWS, 3, column, value))
    assert message in str(error.value)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (COUNTED.replace("impressions", "label"), "label and clicks both say what was clicked; name one of them"),
        (COUNTED.replace('impressions = "shown"\n', ""), "name the column of impressions as well"),
        (COUNTED.replace("shown", "views"), "events.csv, views: is missing; the file has the columns user_id"),
        (REPEATED, "events.csv, label: is missing; the file has the columns user_id"),
    ],
)
def test_a_wrong_key(tmp_path: Path, config: str, message: str) -> None:
    if "label" in config and "clicks" in config:
        config = config.replace('label = "shown"', 'label = "clicked"\nimpressions = "shown"')
    with pytest.raises(DatasetError) as error:
        load(tmp_path, config)
    assert message in str(error.value)
