"""`msd data init` on logs of many shapes: what is written loads, and what cannot be told is asked for."""

import json
import math
import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from msd.dataset.aggregate import count_clicks
from msd.dataset.command import app
from msd.dataset.load import load_dataset
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from tests.dataset.logs import START, init, log, make, write


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_log_of_any_format_becomes_a_dataset(tmp_path: Path, ending: str) -> None:
    dataset = make(tmp_path, log(), ending)
    assert dataset.events.height == 240
    first = {"user_id": "v0", "item_id": "0", "at": START, "label": 1, "device": "ios", "pos": "1"}
    assert dataset.events.row(0, named=True) == first
    features = {feature.name: (feature.side, feature.kind) for feature in dataset.config.features}
    assert features == {
        "price": ("item", "numeric"),
        "tags": ("item", "bag"),
        "home_town": ("user", "categorical"),
        "device": ("context", "categorical"),
        "pos": ("context", "categorical"),
    }
    assert dataset.config.items.text == "{headline}. Tags: {tags}."
    item = dataset.items.filter(pl.col("item_id") == "1").row(0, named=True)
    assert item["text"] == "Offer number 1 of the day. Tags: new, sale."
    assert (item["title"], item["price"], item["tags"]) == ("Offer number 1 of the day", 4.75, ["new", "sale"])
    assert dataset.users.filter(pl.col("user_id") == "v1")["text"].to_list() == ["Home town: York."]


def test_lists_of_lists_are_left_out(tmp_path: Path) -> None:
    dataset = make(tmp_path, log().with_columns(boxes=pl.Series([[[1, 2]]] * 240)), ".parquet")
    assert len(dataset.config.features) == 5


def test_written_file_gives_reasons(tmp_path: Path) -> None:
    make(tmp_path, log())
    text = (tmp_path / "out" / "dataset.toml").read_text(encoding="utf-8")
    assert 'user_id = "user_id"  # column Visitor ID: its name says user' in text
    assert "#   revenue: its name speaks of what happens after the impression" in text
    assert "serving_value = 1" in text
    assert "so 1 stands for it online" in text
    tables = {"events.parquet", "items.parquet", "users.parquet"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dataset.toml", *tables}


def test_tables_of_items_and_users_are_joined(tmp_path: Path) -> None:
    events = write(log().drop("Headline", "home town"), tmp_path / "log.parquet")
    items = pl.DataFrame(
        {"id": range(17), "Name": [f"Thing {n}" for n in range(17)], "Price": [n / 4 for n in range(17)]}
    )
    users = pl.DataFrame(
        {"visitor": [f"v{n}" for n in range(12)], "age": range(20, 32), "title": ["Dr", "Ms", "Mr"] * 4}
    )
    sources = SourceFiles(events, write(items, tmp_path / "i.jsonl"), write(users, tmp_path / "u.csv"))
    draft, report = init_dataset(sources, tmp_path / "out", {})
    assert report.problems == ()
    assert ("Price", "of the events: the table of items has it") in [(one.source, one.reason) for one in draft.left_out]
    dataset = load_dataset(tmp_path / "out")
    assert dataset.items.height == 17
    assert dataset.items["price"].to_list()[:2] == [0.0, 0.25]
    assert dataset.items["tags"].null_count() == 1
    assert dataset.users["text"][0] == "Dr. Age: 20."


def test_log_without_users_texts_or_times(tmp_path: Path) -> None:
    frame = log().select("Visitor ID", "adId", "Clicked?", "Price", "pos")
    draft, report = init(tmp_path, frame)
    assert "time" not in draft.roles
    dataset = load_dataset(tmp_path / "out")
    assert dataset.events["at"].to_list() == list(range(240))
    assert dataset.config.users is None
    assert dataset.config.items.text is None
    assert dataset.config.counts.age_cap_days == 1e-6
    text = (tmp_path / "out" / "dataset.toml").read_text(encoding="utf-8")
    assert "NO TIME was found" in text
    assert "NO TEXT: no column describes an item" in text
    assert any("`msd distill` will fail" in note for note in report.notes)
    assert any("there are no times" in note for note in report.notes)
    assert (report.counts["first_event"], report.counts["last_event"], report.counts["users"]) == (None, None, None)


def test_aggregated_rows_are_recognised(tmp_path: Path) -> None:
    frame = log().with_columns((pl.col("pos") + 200).alias("Impr."), clicks=pl.col("pos") - 1).drop("Clicked?", "pos")
    dataset = make(tmp_path, frame)
    assert (dataset.config.events.impressions, dataset.config.events.clicks) == ("impressions", "clicks")
    assert count_clicks(dataset.events) == (240 * 202.5, 240 * 1.5)
    assert dataset.config.counts.prior_strength == 135.0
    labelled = make(tmp_path / "labelled", log().with_columns(weight=pl.col("pos")), impressions="weight")
    assert count_clicks(labelled.events)[0] == 240 * 2.5


def test_named_columns_win_and_prose_is_a_text(tmp_path: Path) -> None:
    frame = log().rename({"Clicked?": "q", "Visitor ID": "a", "adId": "b", "Time": "c"})
    prose = pl.col("b").cast(pl.String) + pl.lit(" is what they say of it, in more words than a category has." * 6)
    frame = frame.with_columns(other=(pl.col("pos") > 2).cast(pl.Int8), summary_of_it=prose)
    dataset = make(tmp_path, frame, label="q", user="a", item="b", time="c")
    assert dataset.events["label"].sum() == (frame["q"] == "yes").sum()
    assert dataset.config.items.text == "{headline}. {summary_of_it}. Tags: {tags}."


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output, str(result.exception)


def test_init_command_shows_guesses_and_takes_names(tmp_path: Path) -> None:
    path = write(log().rename({"Clicked?": "[red]q"}).with_columns(z=pl.lit(0)), tmp_path / "log.csv")
    code, output, _ = run(path, tmp_path / "a", "--label", "[red]q", "--no-time")
    assert code == 0, output
    assert "given by --label" in output
    assert "[red]q" in output
    assert "no time was found" in output
    assert "it has one value everywhere" in output
    assert "read the reasons in dataset.toml" in output
    code, output, _ = run(path, tmp_path / "b", "--no-time", "--time", "Time")
    assert code == 2
    assert not (tmp_path / "b").exists()


def test_unsafe_names_are_cleaned(tmp_path: Path) -> None:
    odd = {"device": 'de"v\nice = 1', "pos": "user id", "Price": "ünï {x!r}", "tags": "label", "home town": "🙂"}
    dataset = make(tmp_path, log().rename(odd), label="Clicked?", user="Visitor ID", item="adId", time="Time")
    names = [feature.name for feature in dataset.config.features]
    assert len(names) == len(set(names)) == 5
    assert all(name.isascii() for name in names)
    text = (tmp_path / "out" / "dataset.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["format"] == 1
    assert "item_label" in names


def test_json_lines_with_lists_and_gaps(tmp_path: Path) -> None:
    lines = []
    for number in range(200):
        when = datetime(2024, 5, 1) + timedelta(minutes=number)
        event = {"uid": number % 10, "item": f"i{number % 7}", "ts": when.isoformat(), "click": number % 3 == 0}
        event |= {"topics": ["a", "b"][: number % 7 % 3]}
        lines.append(json.dumps(event if number % 9 else event | {"extra": math.pi}))
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    _, report = init_dataset(SourceFiles(tmp_path / "log.jsonl"), tmp_path / "out", {})
    assert report.problems == ()
    dataset = load_dataset(tmp_path / "out")
    assert [(feature.name, feature.side, feature.kind) for feature in dataset.config.features][0] == (
        "topics",
        "item",
        "bag",
    )
    assert dataset.items["topics"].to_list()[:3] == [[], ["a"], ["a", "b"]]


def test_items_that_the_table_lacks_keep_what_the_log_says(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("adId,colour\n1,red\n2,blue\n")
    sources = SourceFiles(write(log(), tmp_path / "log.csv"), tmp_path / "items.csv")
    _, report = init_dataset(sources, tmp_path / "out", {})
    items = load_dataset(tmp_path / "out").items
    assert (items.height, report.counts["events_of_unknown_items"]) == (16, 0)
    assert (items["colour"].null_count(), items["price"].null_count()) == (14, 0)
