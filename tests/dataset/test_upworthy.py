"""The archive's packages as a dataset: what is compared, what is left out, how parts are cut; invented ones, too."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.check import check_dataset
from msd.dataset.invented import invent_tests
from msd.dataset.load import load_dataset
from msd.dataset.problem import ArchiveError
from msd.dataset.upworthy import write_headline_tests


def packages(tests: int = 40) -> pl.DataFrame:
    """Packages of tests, one a day, as the archive's CSV has them: two headlines with one picture, one with another."""
    return pl.DataFrame(
        [
            {
                "created_at": f"{date(2014, 2, 1) + timedelta(days=test)} 06:43:16.005",
                "clickability_test_id": f"t{test:02}",
                "headline": f"{words} &amp; number {test}",
                "eyecatcher_id": picture,
                "impressions": 1_000 + test,
                "clicks": 10 + test % 5,
                "winner": "true",
            }
            for test in range(tests)
            for words, picture in (("Cats", "p1"), ("Dogs", "p1"), ("Dogs", "p1"), ("Birds", "p2"))
        ]
    )


def write(folder: Path, table: pl.DataFrame) -> pl.DataFrame:
    folder.mkdir(exist_ok=True)
    table.write_csv(folder / "archive.csv")
    write_headline_tests(folder / "out", folder / "archive.csv")
    return load_dataset(folder / "out").events


def test_headlines_of_one_picture_are_compared(tmp_path: Path) -> None:
    events = write(tmp_path, packages())
    first = events.filter(user_id="t00").group_by("item_id").agg(pl.sum("impressions")).sort("item_id")
    assert first["impressions"].to_list() == [1_000, 2_000]
    titles = load_dataset(tmp_path / "out").items
    assert "Cats & number 0" in titles["title"].to_list()
    assert not any("Birds" in title for title in titles["title"])
    parts = events.group_by("user_id").agg(pl.col("part").n_unique(), when=pl.col("at").min())
    assert parts["part"].unique().to_list() == [1]
    tests = events.group_by("part").agg(pl.col("user_id").n_unique())
    assert set(tests.rows()) == {("test", 6), ("train", 28), ("valid", 6)}
    latest = events.filter(part="train")["at"].max()
    assert isinstance(latest, int)
    assert latest < int(events.filter(part="test")["at"].min())  # type: ignore[arg-type]
    assert check_dataset(tmp_path / "out").problems == ()
    assert write_headline_tests(tmp_path / "out", tmp_path / "archive.csv") is None, "a second run"


def test_repeated_headline_is_not_new(tmp_path: Path) -> None:
    table = packages().with_columns(
        headline=pl.when(pl.col("clickability_test_id") == "t39", pl.col("headline").str.starts_with("Cats"))
        .then(pl.lit("CATS &amp; number 3"))
        .otherwise("headline")
    )
    assert "t39" not in write(tmp_path, table)["user_id"].to_list()


def test_doubtful_tests_are_left_out(tmp_path: Path) -> None:
    table = packages(80).with_columns(
        pl.col("created_at").str.replace("2014-02", "2014-01").str.replace("2014-03", "2013-12")
    )
    kept = write(tmp_path, table)["user_id"].unique()
    assert not {"t00", "t08", "t30", "t50"} & set(kept)
    assert {"t27", "t70", "t79"} <= set(kept)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop("clicks"), "has no column clicks: not a file of packages"),
        (lambda table: table.with_columns(clicks=pl.lit(9_999_999)), "is more than the impressions of its row"),
        (lambda table: table.with_columns(clicks=pl.lit("many")), "'many' is not a number"),
        (lambda table: table.with_columns(created_at=pl.lit("last week")), "should begin with a day"),
        (lambda table: table.drop("created_at"), "has no column created_at"),
        (lambda table: table.head(40), "only 10 tests compare two or more headlines"),
    ],
)
def test_rejects_other_and_missing_files(
    tmp_path: Path, spoil: Callable[[pl.DataFrame], pl.DataFrame], message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        write(tmp_path, spoil(packages()))
    with pytest.raises(ArchiveError, match="download the archive from"):
        write_headline_tests(tmp_path / "out", tmp_path / "none.csv")


def test_invented_tests_follow_their_law(tmp_path: Path) -> None:
    table = invent_tests(200)
    assert table.equals(invent_tests(200))
    assert table.group_by("test").agg(pl.col("headline").n_unique())["headline"].unique().to_list() == [4]
    rates = table.select(observed=(pl.col("clicks") / pl.col("impressions")).mean(), law=pl.col("law").mean()).row(0)
    assert rates[0] == pytest.approx(rates[1], rel=0.03)
    counts = write_headline_tests(tmp_path / "out", None)
    assert counts is not None
    assert counts["test tests"] > 100
