"""Outcomes of events: rows of many impressions, and conversions with their delays."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd.dataset.aggregate import count_clicks, with_labels
from msd.dataset.check import check_dataset
from msd.dataset.config import EventsConfig
from msd.dataset.conversions import Arrival, Delays, say_conversions, say_delays
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


def test_row_becomes_an_event_without_and_one_with_clicks(tmp_path: Path) -> None:
    events = load(tmp_path).events
    assert events.columns == ["user_id", "item_id", "at", "label", "device", "impressions"]
    assert count_clicks(events) == (5 * 39, 5 * sum(time % 3 for time in range(10)))
    fourth = events.filter((pl.col("user_id") == "u2") & (pl.col("at") == 1_700_000_005))
    assert fourth.select("label", "impressions", "device").rows() == [(0, 3.0, "ios"), (1, 2.0, "ios")]
    # A row without impressions is no event.
    events = load(tmp_path, events=spoil(ROWS, 1, "shown", "0")).events
    assert count_clicks(events.filter(pl.col("at") == 1_700_000_000)) == (4 * 3, 0)


def test_impressions_of_a_row_share_a_part(tmp_path: Path) -> None:
    dataset = load(tmp_path)
    parts = dataset.events.with_columns(part=pl.Series(split_events(dataset.events, dataset.config)))
    assert parts.group_by("user_id", "at").agg(pl.col("part").n_unique())["part"].unique().to_list() == [1]
    assert sorted(parts["part"].unique()) == [0, 1, 2, 3]


def test_split_cuts_impressions(tmp_path: Path) -> None:
    """As if each impression had been a row."""
    counted = load(tmp_path / "counted")
    parts = split_events(counted.events, counted.config)
    shown = counted.events["impressions"].cast(pl.Int64).to_numpy()
    single = counted.events.select("user_id", "item_id", "at", "label").select(
        pl.all().gather(np.repeat(np.arange(len(parts)), shown))
    )
    assert (split_events(single, counted.config) == np.repeat(parts, shown)).all()


def test_labelled_row_of_several_impressions(tmp_path: Path) -> None:
    events = load(tmp_path, REPEATED, ROWS.replace("clicked", "label").replace(",2,ios", ",1,ios")).events
    assert count_clicks(events) == (5 * 39, 5 * 27)


@given(counts=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20))
@settings(max_examples=50)
def test_sums_of_counts_are_kept(counts: list[tuple[int, int]]) -> None:
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
def test_rejects_wrong_count(tmp_path: Path, column: str, value: str, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        load(tmp_path, events=spoil(ROWS, 3, column, value))
    assert message in str(error.value)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (COUNTED.replace("clicks =", 'label = "device"\nclicks ='), "label and clicks both say what was clicked"),
        (COUNTED.replace('impressions = "shown"\n', ""), "name the column of impressions as well"),
        (COUNTED.replace("shown", "views"), "events.csv, views: is missing; the file has the columns user_id"),
        (REPEATED, "events.csv, label: is missing; the file has the columns user_id"),
    ],
)
def test_rejects_wrong_key(tmp_path: Path, config: str, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        load(tmp_path, config)
    assert message in str(error.value)


START, DAY = 1_700_000_000, 86_400
NAMED = CONFIG.replace('"events.csv"\n', '"events.csv"\nconversion = "bought"\nconverted_at = "bought_at"\n')
CONVERTED_ROWS = "user_id,item_id,at,label,device,bought,bought_at\n" + "".join(
    f"u{user},{(1, 2, 10)[(user + time) % 3]},{START + time},{time % 2},ios,"
    + (f"1,{START + time + 60 * user}\n" if time % 4 == 1 else "0,\n")
    for time in range(10)
    for user in range(1, 6)
)


def test_conversions_and_their_times_are_columns(tmp_path: Path) -> None:
    events = load_dataset(write_small(tmp_path, config=NAMED, events=CONVERTED_ROWS)).events

    assert events.columns[:4] == ["user_id", "item_id", "at", "label"]
    assert events["conversion"].to_list() == [int(at % 4 == 1) for at in (events["at"] - START).to_list()]
    assert events.filter(pl.col("conversion") == 1)["converted_at"].null_count() == 0
    report = check_dataset(tmp_path)
    assert (report.counts["conversions"], report.counts["conversion_rate"]) == (15, 0.6)
    assert any("delayed feedback: of 15 conversions" in note for note in report.notes)
    # Not without the key.
    folder = write_small(tmp_path, config=CONFIG, events=CONVERTED_ROWS)
    assert "conversion" not in load_dataset(folder).events.columns
    assert "conversions" not in check_dataset(folder).counts


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (f"u1,1,{START},0,ios,1,", "row 3, bought: '1' is 1 without a click"),
        (f"u1,1,{START},1,ios,2,", "row 3, bought: '2' should be 0 (no conversion) or 1 (conversion)"),
        (f"u1,1,{START},1,ios,,", "is missing"),
        (f"u1,1,{START},1,ios,0,{START + 5}", "is the time of no conversion"),
        (f"u1,1,{START},1,ios,1,{START - 5}", "is before the event"),
    ],
)
def test_rejects_contradictory_conversion_by_row(tmp_path: Path, row: str, what: str) -> None:
    lines = CONVERTED_ROWS.splitlines()
    lines[3] = row
    folder = write_small(tmp_path, config=NAMED, events="\n".join(lines) + "\n")

    with pytest.raises(DatasetError) as failed:
        load_dataset(folder)
    assert what in str(failed.value)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ('converted_at = "bought_at"\n', "name the column of conversions as well"),
        ('conversion_value = "bought"\n', "conversion_value is of a conversion: name the column"),
        ('conversion = "bought"\nimpressions = "shown"\n', "conversion is of single impressions"),
    ],
)
def test_rejects_conversion_keys_that_contradict(tmp_path: Path, keys: str, what: str) -> None:
    config = CONFIG.replace('"events.csv"\n', f'"events.csv"\n{keys}')

    with pytest.raises(DatasetError, match=what):
        load_dataset(write_small(tmp_path, config=config, events=CONVERTED_ROWS))


def test_value_of_a_conversion_is_a_column_and_of_conversions_alone(tmp_path: Path) -> None:
    config = NAMED.replace('bought_at"\n', 'bought_at"\nconversion_value = "basket"\n')
    head, *lines = CONVERTED_ROWS.splitlines()
    rows = [f"{line},{9.5 if line.split(',')[5] == '1' else ''}" for line in lines]
    written = write_small(tmp_path / "a", config=config, events="\n".join([f"{head},basket", *rows]) + "\n")
    events = load_dataset(written).events
    assert events.filter(pl.col("conversion_value").is_not_null())["conversion"].to_list() == [1] * 15
    assert events["conversion_value"].sum() == 15 * 9.5

    rows[0] += "3"
    rows[5] = rows[5].replace("9.5", "-1")
    written = write_small(tmp_path / "b", config=config, events="\n".join([f"{head},basket", *rows]) + "\n")
    with pytest.raises(DatasetError) as failed:
        load_dataset(written)
    assert "row 1, basket: '3' is the value of no conversion" in str(failed.value)
    assert "row 6, basket: '-1' is below 0" in str(failed.value)


def _log(days: int, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """A log of clicks over so many days, half of which convert after two days on average, cut at its end; and how many
    conversions the cut has hidden."""
    at = np.sort(rng.integers(0, days * DAY, size=20_000))
    due = np.where(rng.random(len(at)) < 0.5, at + rng.exponential(2 * DAY, len(at)), np.inf)
    seen = due <= days * DAY
    events = pl.DataFrame({"at": at, "label": 1, "conversion": seen.astype(np.int8)}).with_columns(
        converted_at=pl.Series(np.where(seen, due, 0).astype(np.int64)).set(pl.Series(~seen), None)
    )
    return events, int(np.isfinite(due).sum() - seen.sum())


def test_missing_conversions_are_estimated_from_settled_clicks() -> None:
    events, hidden = _log(30, np.random.default_rng(2))
    found = Delays.of(events)

    assert found.missing == pytest.approx(hidden, rel=0.1)
    assert found.later["1 d"] == pytest.approx(np.exp(-0.5), abs=0.05)
    assert "still convert" in say_delays(events)[0]
    assert "too short to tell" in say_delays(_log(3, np.random.default_rng(2))[0])[0]
    place = pl.Series(range(events.height))
    assert "few" in say_conversions(events, place < 50)[0]
    assert "few" not in say_conversions(events, place >= 50)[0]


def test_share_of_conversions_that_have_come_is_that_of_the_law() -> None:
    events, _ = _log(30, np.random.default_rng(2))
    # The rate of conversions may change: a share of the newer ones is missing.
    events = events.filter((pl.col("at") < 20 * DAY) | (pl.int_range(pl.len()) % 3 == 0) | (pl.col("conversion") == 0))
    found = Arrival.of(events)
    assert found is not None
    ages = np.array([0.5, 1, 2, 4, 8, 16]) * DAY

    np.testing.assert_allclose(found.share(30 * DAY - ages), 1 - np.exp(-ages / (2 * DAY)), atol=0.03)
    assert found.share(np.array([31.0 * DAY])) <= 1e-3
    assert (np.diff(found.share(np.linspace(0, 30 * DAY, 1_000))) <= 0).all()


def test_conversions_of_the_future_make_no_click_old() -> None:
    events, _ = _log(30, np.random.default_rng(2))
    late = pl.when(pl.int_range(pl.len()) == 3).then(90 * DAY).otherwise("converted_at").alias("converted_at")
    found = Arrival.of(events.with_columns(late, conversion=pl.lit(1, pl.Int8)))

    assert found is not None
    assert found.end < 30 * DAY


def test_too_few_conversions_tell_no_delay() -> None:
    events, _ = _log(30, np.random.default_rng(2))
    assert Arrival.of(events.head(150)) is None
    assert Arrival.of(events.drop("converted_at")) is None
