"""What `msd data init` cannot make a dataset of: it says where the fault is and what to do, and writes nothing."""

import resource
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.roles import InitError
from msd.dataset.scaffold import SourceFiles, init_dataset
from tests.dataset.logs import log, make, write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "Visitor ID"}, "no column name identifies the user, who saw the ad; name it with --user COLUMN"),
        ({"drop": "adId"}, "no column name identifies the item, what was shown; name it with --item COLUMN"),
        ({"drop": "Clicked?"}, "no column says whether it was clicked, 0 or 1. Name it with --label COLUMN"),
        ({"Time": "01/02/2024"}, "log.csv, Time: '01/02/2024' is neither unix seconds since 1990 nor an ISO 8601 time"),
        ({"Clicked?": "3"}, "no column says whether it was clicked"),
        ({"seen": "0", "Clicked?": "x"}, "no column says whether it was clicked"),
        ({"Visitor ID": None}, "no column name identifies the user, who saw the ad"),
    ],
)
def test_what_cannot_be_told_is_asked_for(tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    frame = log()
    for name, value in change.items():
        frame = (
            frame.drop(value) if name == "drop" and value else frame.with_columns(pl.lit(value, pl.String).alias(name))
        )
    with pytest.raises(InitError) as error:
        make(tmp_path, frame)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_two_that_fit_are_both_named(tmp_path: Path) -> None:
    frame = log().rename({"Clicked?": "a", "Time": "t"}).with_columns(b=pl.col("a"), s=pl.col("t"))
    with pytest.raises(InitError, match="t, s all hold times; name the one of the impression with --time"):
        make(tmp_path, frame)
    with pytest.raises(InitError, match="a, b all hold only zeros and ones; name the one"):
        make(tmp_path, frame, time="t")


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (3, "Visitor ID", None, "log.csv, row 4, Visitor ID: the value is missing"),
        (3, "adId", "x" * 300, "exceeds the maximum of 256 bytes for an id"),
        (3, "Clicked?", "maybe", "log.csv, row 4, Clicked?: 'maybe' should be 0 (no click) or 1 (click), or no or yes"),
        (3, "Clicked?", None, "log.csv, row 4, Clicked?: the value is missing"),
        (3, "Time", "yesterday", "log.csv, row 4, Time: 'yesterday' is neither unix seconds nor an ISO 8601 time"),
    ],
)
def test_a_wrong_cell_is_told_with_its_place_in_the_log(
    tmp_path: Path, row: int, column: str, value: str | None, message: str
) -> None:
    frame = log().with_columns(pl.all().cast(pl.String))
    values = frame[column].to_list()
    values[row] = value
    with pytest.raises(InitError) as error:
        make(tmp_path, frame.with_columns(pl.Series(column, values)), label="Clicked?", time="Time")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_wrong_counts_are_told(tmp_path: Path) -> None:
    frame = log().with_columns(impressions=pl.lit("2.5"), clicks=pl.lit("1")).drop("Clicked?")
    with pytest.raises(InitError) as error:
        make(tmp_path, frame)
    assert str(error.value).splitlines()[1:] == [
        "log.csv, row 1, impressions: '2.5' should be a count: a whole number of at least 0 (and so in 239 more rows)",
        "impressions was taken as the impressions (its name says impressions); to name another column, use "
        "--impressions COLUMN",
    ]


def test_more_clicks_than_impressions_are_told_before_anything_is_written(tmp_path: Path) -> None:
    frame = log().drop("Clicked?")
    with pytest.raises(InitError, match=r"log\.csv, row 2, clicks: '5' is more than the impressions of its row"):
        make(tmp_path, frame.with_columns(impressions=pl.lit(2), clicks=pl.int_range(pl.len()) % 2 * 5))
    assert not (tmp_path / "out").exists()


def test_a_flag_of_zeros_and_ones_is_no_label(tmp_path: Path) -> None:
    frame = log().drop("Clicked?").with_columns(is_mobile=pl.col("pos") % 2, impressions=pl.col("pos") % 2)
    with pytest.raises(InitError, match="no column says whether it was clicked"):
        make(tmp_path, frame)


def test_a_run_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "events.parquet").write_bytes(b"PAR1")
    (tmp_path / "out").mkdir()
    init_dataset(SourceFiles(write(log(), tmp_path / "log.csv")), tmp_path / "out", {})
    assert {one.name for one in tmp_path.iterdir()} == {"log.csv", "out"}
    assert "dataset.toml" in {one.name for one in (tmp_path / "out").iterdir()}


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    path = write(log(), tmp_path / "log.csv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on a file's size fails a write as a full disk does; Python ignores the signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(InitError, match="cannot be written: .*; name another folder with --out"):
            init_dataset(SourceFiles(path), tmp_path / "out", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.name for one in tmp_path.iterdir()] == ["log.csv"]


def test_files_and_folders_that_will_not_do(tmp_path: Path) -> None:
    path = write(log(), tmp_path / "log.csv")
    empty, sheet = tmp_path / "empty.csv", tmp_path / "log.xlsx"
    empty.write_text("a,b\n", encoding="utf-8")
    sheet.write_bytes(b"PK")
    for source, message in (
        (tmp_path / "gone.csv", "gone.csv: there is no such file"),
        (empty, "empty.csv: is empty: it has no row of data"),
        (sheet, r"log.xlsx: should be a folder or end in one of \.parquet, \.csv, .*: save it as one of these"),
    ):
        with pytest.raises(InitError, match=message):
            init_dataset(SourceFiles(source), tmp_path / "out", {})
    with pytest.raises(InitError, match="--user nobody: log.csv has no such column; it has Visitor ID, adId"):
        init_dataset(SourceFiles(path), tmp_path / "out", {"user": "nobody"})
    with pytest.raises(InitError, match="cannot be written: .*; name another folder with --out"):
        init_dataset(SourceFiles(path), path / "out", {})
    with pytest.raises(InitError, match="--item adId: is also given by --user; a column has one role"):
        init_dataset(SourceFiles(path), tmp_path / "out", {"user": "adId", "item": "adId"})
    with pytest.raises(InitError, match="is there already; name an empty or a new folder"):
        init_dataset(SourceFiles(path), tmp_path, {})
    items = write(pl.DataFrame({"sku": ["x", "y"], "colour": ["red", "blue"]}), tmp_path / "items.csv")
    with pytest.raises(InitError, match="items.csv: no column holds the item ids of the events, such as 0, 7, 14"):
        init_dataset(SourceFiles(path, items=items), tmp_path / "out", {"item": "adId"})
    twice = write(pl.DataFrame({"adId": [1, 1], "colour": ["red", "blue"]}), tmp_path / "twice.csv")
    with pytest.raises(InitError, match="twice.csv, row 2, adId: '1' repeats the id of an earlier row"):
        init_dataset(SourceFiles(path, items=twice), tmp_path / "out", {})
