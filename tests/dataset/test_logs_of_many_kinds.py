"""Logs as people have them go from the file to a dataset; what is known only afterwards is left out, with evidence."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.column import is_anonymous
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from msd.dataset.problem import Doubt
from tests.dataset.logs import START, event_log, exchange, init, left_out, log, make, outcomes, reviews, write


def sides(dataset: Dataset) -> dict[str, tuple[str, str]]:
    return {feature.name: (feature.side, feature.kind) for feature in dataset.config.features}


def test_reviews_keep_no_word_of_the_buyer(tmp_path: Path) -> None:
    draft, _ = init(tmp_path, reviews())
    left, dataset = left_out(draft), load_dataset(tmp_path / "out")
    columns = {role: found.column for role, found in draft.roles.items()}
    assert columns == {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "label": "liked"}
    assert set(left) == {"reviewText", "summary", "overall", "verified"}
    assert "it alone tells clicks from the rest (AUC 1.000)" in left["overall"]
    assert (dataset.config.items.text, dataset.config.features) == (None, [])


def test_hours_of_an_exchange_are_times(tmp_path: Path) -> None:
    draft, report = init(tmp_path, exchange(), item="C14")
    left, dataset = left_out(draft), load_dataset(tmp_path / "out")
    assert draft.roles["time"].reason == "its name says time, written as %y%m%d%H"
    assert dataset.events["at"][0] == int(datetime(2024, 5, 1, 8, tzinfo=UTC).timestamp())
    assert {"id", "device_ip", "C20"} == set(left)
    kinds = {"c17": ("item", "categorical")} | dict.fromkeys(
        ("c1", "banner_pos", "site_id"), ("context", "categorical")
    )
    assert sides(dataset) == kinds | {"app_id": ("context", "categorical")}
    assert "of the events are of one user, a99f214a: if that stands for unknown users" in "\n".join(report.notes)


def test_hashed_columns_without_user_and_time(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "label": n * 7 % 4 // 3,
            "I1": None if n % 5 == 0 else n % 90 - 1,
            "C1": f"{n % 11:08x}",
            "C2": f"{n % 60:08x}",
        }
        for n in range(600)
    )
    draft, _ = init(tmp_path, frame, item="C2", no_user=True)
    assert "user" not in draft.roles
    assert "NO USER was found: each row is an anonymous person's" in (tmp_path / "out" / "dataset.toml").read_text()
    dataset = load_dataset(tmp_path / "out")
    assert sides(dataset) == {"i1": ("context", "numeric"), "c1": ("context", "categorical")}
    assert dataset.events.select(is_anonymous()).to_series().all()
    assert dataset.events["user_id"].n_unique() == frame.height


def test_outcomes_are_left_out_with_their_evidence(tmp_path: Path) -> None:
    draft, _ = init(tmp_path, outcomes())
    left = left_out(draft)
    assert [feature.source for feature in draft.features] == ["device", "site"]
    named = ("install", "conv_7d", "viewed_50pct", "win_price", "payprice", "cost", "umsatz")
    assert all("its name speaks of what happens after the impression" in left[name] for name in named)
    assert "it is other than 0 only when clicked (" in left["x1"]
    assert left["x1"].endswith("as a second outcome: --conversion x1")
    assert "it is other than 0 only without a click (" in left["x4"]
    assert all("it alone tells clicks from the rest (AUC 1.000)" in left[name] for name in ("x2", "x3"))


def test_named_columns_are_kept_left_out_or_a_second_outcome(tmp_path: Path) -> None:
    dataset = make(tmp_path, outcomes(), conversion="install", keep=["cost"], leave_out=["site"])
    assert list(sides(dataset)) == ["device", "cost"]
    assert dataset.events["conversion"].sum() == outcomes()["install"].sum()


@pytest.mark.parametrize("way", ["one log", "without request IDs", "files of their own"])
def test_rows_of_clicks_are_joined_to_impressions(tmp_path: Path, way: str) -> None:
    frame = event_log()
    counts = {kind: frame.filter(pl.col("event") == kind).height for kind in ("impression", "click", "conversion")}
    if way == "files of their own":
        kinds = {kind: frame.filter(pl.col("event") == kind).drop("event") for kind in counts}
        done = {kind: kinds[kind].select("request_id", "ts") for kind in ("click", "conversion")}
        files = {kind: write(rows, tmp_path / f"{kind}.csv") for kind, rows in (kinds | done).items()}
        sources = SourceFiles(files["impression"], clicks=files["click"], conversions=files["conversion"])
    else:
        frame = frame if way == "one log" else frame.drop("request_id")
        sources = SourceFiles(write(frame, tmp_path / "log.csv"))
    draft, report = init_dataset(sources, tmp_path / "out", {"kind": "event"} if way == "without request IDs" else {})
    assert report.problems == ()
    events = load_dataset(tmp_path / "out").events
    assert (events.height, events["label"].sum(), events["conversion"].sum()) == tuple(counts.values())
    by = "user_id and ad_id" if way == "without request IDs" else "request_id"
    reason = f"{counts['click']} of {counts['click']} clicks have an impression, by {by}"
    others = "" if way == "files of their own" else "; 223 rows of other kinds are left out"
    assert draft.roles["label"].reason == reason + others
    assert (events["converted_at"] - events["at"]).drop_nulls().unique().to_list() == [900]
    assert [feature.name for feature in draft.features] == ["device"]


@pytest.mark.parametrize(
    ("written", "options"),
    [
        ("%Y%m%d%H%M", {}),
        ("%d/%b/%Y:%H:%M:%S +0000", {}),
        ("%Y-%m-%d %H:%M:%S.25 UTC", {}),
        ("%m/%d/%y %H:%M", {}),
        ("am %d.%m. um %H:%M im Jahr %Y", {"time_format": "am %d.%m. um %H:%M im Jahr %Y"}),
    ],
)
def test_times_of_any_form(tmp_path: Path, written: str, options: dict[str, str]) -> None:
    frame = outcomes(600).select("user_id", "ad_id", "clicked")
    times = [datetime.fromtimestamp(START + 3_600 * number, UTC).strftime(written) for number in range(frame.height)]
    dataset = make(tmp_path, frame.with_columns(when=pl.Series(times)).rename({"when": "time"}), **options)
    assert dataset.events["at"].to_list() == [START + 3_600 * number for number in range(frame.height)]


@pytest.mark.parametrize(
    ("old", "new"),
    [("Offer number 3", 'Offer of 15" screens'), ("\n", "\n\n\n")],
    ids=["stray quotes", "blank lines in the end"],
)
def test_notation_of_cells_changes_nothing(tmp_path: Path, old: str, new: str) -> None:
    text = log().write_csv()
    changed = text + new if old == "\n" else re.sub(old, new, text, flags=re.MULTILINE)
    for name, content in (("as_is", text), ("changed", changed)):
        (tmp_path / f"{name}.csv").write_text(content)
        init_dataset(SourceFiles(tmp_path / f"{name}.csv"), tmp_path / name, {})
    assert changed != text
    assert load_dataset(tmp_path / "changed").events.equals(load_dataset(tmp_path / "as_is").events)


def test_edited_text_stays_the_items(tmp_path: Path) -> None:
    last = pl.int_range(pl.len()) == pl.len() - 1
    frame = log().with_columns(Headline=pl.when(last).then(pl.lit("A new offer")).otherwise("Headline"))
    titles = make(tmp_path, frame).items["title"]
    assert titles.eq("A new offer").sum() == 1


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda frame: frame.with_columns(ts=START), "all events have one time: parts are cut by item, and"),
        (lambda frame: frame.with_columns(pl.col("ts") + 10**9), "1000 events lie in the future, the last on 2056-"),
        (
            lambda frame: pl.concat([frame, frame]),
            "1000 events repeat an earlier one's user, item and time: if the log",
        ),
    ],
)
def test_odd_times_are_noted(tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], note: str) -> None:
    _, report = init(tmp_path, change(outcomes(1_000).select("user_id", "ad_id", "ts", "clicked")))
    assert note in "\n".join(report.notes)


def test_column_that_no_name_calls_a_time_is_asked_for(tmp_path: Path) -> None:
    born = pl.format("19{}-05-01", pl.col("user_id").str.slice(1).cast(pl.Int64) % 40 + 50)
    frame = outcomes(600).select("user_id", "ad_id", "clicked", pl.col("ts").alias("served"), born=born)
    with pytest.raises(Doubt, match="served, born; give --time served or --time born, or --no-time if the rows are"):
        init(tmp_path, frame)
    draft, _ = init(tmp_path, frame, time="served")
    assert left_out(draft)["born"].startswith("a time")


@pytest.mark.parametrize(("name", "step"), [("x", 10**16), ("bid_id", 1)], ids=["random", "counted"])
def test_long_numbers_are_no_times(tmp_path: Path, name: str, step: int) -> None:
    numbers = pl.Series([10**18 + number * 7 % 600 * step for number in range(600)])
    frame = outcomes(600).select("user_id", "ad_id", "clicked", numbers.alias(name))
    draft, _ = init(tmp_path, frame)
    assert "time" not in draft.roles
    assert list(left_out(draft)) == [name]
