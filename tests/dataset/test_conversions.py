"""Conversions in a dataset: what contradicts a click is told by row, and delays say what is still to come."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from msd.dataset.check import check_dataset
from msd.dataset.conversions import Delays, say_conversions, say_delays
from msd.dataset.load import load_dataset
from msd.dataset.problem import DatasetError
from tests.dataset.small import CONFIG, write_small

START, DAY = 1_700_000_000, 86_400
NAMED = CONFIG.replace('"events.csv"\n', '"events.csv"\nconversion = "bought"\nconverted_at = "bought_at"\n')
ROWS = "user_id,item_id,at,label,device,bought,bought_at\n" + "".join(
    f"u{user},{(1, 2, 10)[(user + time) % 3]},{START + time},{time % 2},ios,"
    + (f"1,{START + time + 60 * user}\n" if time % 4 == 1 else "0,\n")
    for time in range(10)
    for user in range(1, 6)
)


def test_conversions_and_their_times_are_columns(tmp_path: Path) -> None:
    events = load_dataset(write_small(tmp_path, config=NAMED, events=ROWS)).events

    assert events.columns[:4] == ["user_id", "item_id", "at", "label"]
    assert events["conversion"].to_list() == [int(at % 4 == 1) for at in (events["at"] - START).to_list()]
    assert events.filter(pl.col("conversion") == 1)["converted_at"].null_count() == 0
    report = check_dataset(tmp_path)
    assert (report.counts["conversions"], report.counts["conversion_rate"]) == (15, 0.6)
    assert any("delayed feedback: of 15 conversions" in note for note in report.notes)


def test_a_dataset_without_them_is_as_before(tmp_path: Path) -> None:
    folder = write_small(tmp_path, config=CONFIG, events=ROWS)

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
def test_what_cannot_be_is_told_by_its_row(tmp_path: Path, row: str, what: str) -> None:
    lines = ROWS.splitlines()
    lines[3] = row
    folder = write_small(tmp_path, config=NAMED, events="\n".join(lines) + "\n")

    with pytest.raises(DatasetError) as failed:
        load_dataset(folder)
    assert what in str(failed.value)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ('converted_at = "bought_at"\n', "name the column of conversions as well"),
        ('conversion = "bought"\nimpressions = "shown"\n', "conversion is of single impressions"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path: Path, keys: str, what: str) -> None:
    config = CONFIG.replace('"events.csv"\n', f'"events.csv"\n{keys}')

    with pytest.raises(DatasetError, match=what):
        load_dataset(write_small(tmp_path, config=config, events=ROWS))


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


def test_conversions_that_are_still_to_come_are_counted_from_settled_clicks() -> None:
    events, hidden = _log(30, np.random.default_rng(2))
    found = Delays.of(events)

    assert found.missing == pytest.approx(hidden, rel=0.1)
    assert found.later["1 d"] == pytest.approx(np.exp(-0.5), abs=0.05)
    assert "still convert" in say_delays(events)[0]
    assert "too short to tell" in say_delays(_log(3, np.random.default_rng(2))[0])[0]


def test_few_conversions_to_calibrate_by_are_told() -> None:
    events, _ = _log(30, np.random.default_rng(2))
    place = pl.Series(range(events.height))

    assert "few" in say_conversions(events, place < 50)[0]
    assert "few" not in say_conversions(events, place >= 50)[0]
