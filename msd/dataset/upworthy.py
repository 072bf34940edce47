"""The Upworthy Research Archive, from your own download, as a dataset of randomised tests of headlines.

Matias, Munger, Aubin Le Quere and Ebersole 2021, doi:10.1038/s41597-021-00934-7; the archive is at osf.io/jd64p. This
project contains no part of it.
"""

import html
import time
from datetime import date
from importlib import resources
from pathlib import Path

import polars as pl

from msd.contract.files import sha256_file, write_text_atomic
from msd.dataset.aggregate import counts_fit
from msd.dataset.column import read_whole_numbers
from msd.dataset.config import CONFIG_FILE
from msd.dataset.invented import invent_tests
from msd.dataset.problem import ArchiveError, Problem, lines_of
from msd.dataset.table import read_table, write_parquet
from msd.step import STEP_FILE, check_out, fingerprint_of, is_done, mark_done

# The archive's authors found that tests of this period were not always randomised, and advise against their use (2024).
DOUBTFUL = date(2013, 6, 25), date(2014, 1, 10)
_NEEDED = ("created_at", "clickability_test_id", "headline", "impressions", "clicks")
_TRAIN, _VALID = 0.7, 0.85  # shares of the tests, in time
_FEWEST_TESTS = 20


def write_headline_tests(folder: Path, archive: Path | None) -> dict[str, int] | None:
    """Write the tests of an archive (a CSV or Parquet file, or a folder of them), or invented ones, as a dataset.
    Return the tests, headlines and impressions of each part, or None if `folder` already has exactly these.

    A test is compared with one picture, the one with the most impressions. Headlines of an earlier part are left out of
    valid and test. Raises ArchiveError.
    """
    start = time.perf_counter()
    config = resources.files("msd.dataset").joinpath("upworthy.toml").read_text("utf-8")
    run = fingerprint_of(config, _hash_of(archive))
    if is_done(folder, run):
        return None
    check_out(folder, (STEP_FILE,), "dataset", ArchiveError)
    packages = invent_tests() if archive is None else _read(archive)
    events = _split(_compared(packages))
    items = events.select("headline_id", "headline")
    for name, table in (("events", events.drop("headline")), ("items", items)):
        write_parquet(folder / f"{name}.parquet", table)
    write_text_atomic(folder / CONFIG_FILE, config)
    mark_done(folder, run, time.perf_counter() - start)
    counts = events.group_by("part").agg(
        tests=pl.col("test").n_unique(), headlines=pl.len(), shown=pl.sum("impressions")
    )
    return {
        f"{part} {name}": counts.filter(part=part)[name].item()
        for part in ("train", "valid", "test")
        for name in ("tests", "headlines", "shown")
    }


def _hash_of(archive: Path | None) -> list[str]:
    if archive is None:
        return []
    if not archive.exists():
        raise ArchiveError(f"{archive}: there is no such file; download the archive from https://osf.io/jd64p")
    files = sorted(path for path in archive.rglob("*") if path.is_file()) if archive.is_dir() else [archive]
    return [sha256_file(path) for path in files]


def _read(archive: Path) -> pl.DataFrame:
    """Return one row per package: test, image, headline, day, impressions, clicks. Tests whose
    randomisation is doubtful are left out."""
    problems: list[Problem] = []
    table = read_table(archive.parent, archive.name, problems)
    if table is None:
        raise ArchiveError("\n".join([f"{archive} cannot be read:", *lines_of(problems)]))
    if missing := [name for name in _NEEDED if name not in table.frame.columns]:
        raise ArchiveError(
            f"{archive} has no column {', '.join(missing)}: not a file of packages of the Upworthy Research Archive "
            f"(upworthy-archive-…-packages-….csv); its columns are {', '.join(table.frame.columns)}"
        )
    counts = {name: read_whole_numbers(table, name) for name in ("impressions", "clicks")}
    counts_fit(table, "clicks", counts["impressions"], counts["clicks"])
    day = table.frame["created_at"].cast(pl.String).str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    table.flag("created_at", day.is_null(), "should begin with a day, such as 2014-11-20")
    if problems:
        raise ArchiveError("\n".join([f"fix these problems in {archive} first:", *lines_of(problems)]))
    image = "eyecatcher_id" if "eyecatcher_id" in table.frame.columns else "clickability_test_id"
    packages = table.frame.select(
        test=pl.col("clickability_test_id").cast(pl.String),
        image=pl.col(image).cast(pl.String).fill_null(""),
        headline=pl.col("headline").map_elements(html.unescape, return_dtype=pl.String).str.strip_chars(),
        day=day,
        **counts,
    ).drop_nulls(("test", "headline"))
    return packages.filter(~pl.col("day").is_between(*DOUBTFUL).any().over("test"))


def _compared(packages: pl.DataFrame) -> pl.DataFrame:
    """Return one row per headline and test, for its picture with the most impressions among those with two or more
    headlines."""
    headlines = (
        packages.filter(pl.col("impressions") > 0)
        .group_by("test", "image", "headline", maintain_order=True)
        .agg(pl.col("day").max(), pl.sum("impressions"), pl.sum("clicks"))
    )
    pictures = (
        headlines.group_by("test", "image", maintain_order=True)
        .agg(headlines=pl.len(), shown=pl.sum("impressions"))
        .filter(pl.col("headlines") > 1)
        .sort("shown", "image", descending=[True, False])
        .unique("test", keep="first", maintain_order=True)
    )
    return headlines.join(pictures.select("test", "image"), on=("test", "image"))


def _split(headlines: pl.DataFrame) -> pl.DataFrame:
    """Return the dataset's events: whole tests in time order, the latest of them as the test part."""
    tests = headlines.group_by("test").agg(pl.col("day").max()).sort("day", "test").with_row_index("place")
    if tests.height < _FEWEST_TESTS:
        raise ArchiveError(f"only {tests.height} tests compare two or more headlines; {_FEWEST_TESTS} are the fewest")
    share = pl.col("place") / tests.height
    part = (
        pl.when(share < _TRAIN)
        .then(pl.lit("train"))
        .when(share < _VALID)
        .then(pl.lit("valid"))
        .otherwise(pl.lit("test"))
    )
    events = (
        headlines.drop("day", "image")
        .join(tests.with_columns(part=part), on="test")
        .sort("place", "headline")
        .with_columns(
            at=pl.col("day").cast(pl.Datetime("ms")).dt.epoch("s") + pl.col("place") % 86_400,
            headline_id=pl.format("{}-{}", "test", pl.int_range(pl.len()).over("test")),
            words=pl.col("headline").str.to_lowercase(),
        )
    )
    # A headline that was tested before is not new.
    new = (pl.col("part") == "train") | (pl.col("part") == pl.col("part").first().over("words", order_by="place"))
    events = events.filter(new).filter(pl.len().over("test") > 1)
    return events.select("test", "headline_id", "headline", "at", "part", "impressions", "clicks")
