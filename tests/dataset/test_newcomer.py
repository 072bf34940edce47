"""Logs as newcomers bring them: packed, in parts, aggregated, without users; what cannot be used is said."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.check import DatasetReport
from msd.dataset.draft import Draft
from msd.dataset.load import load_dataset
from msd.dataset.roles import InitError
from msd.dataset.scaffold import SourceFiles, init_dataset
from tests.dataset.logs import START, log, make, write

SUBJECTS = ("bread", "bicycles", "gardens", "winter", "music", "loans", "travel", "shoes", "phones", "paint")


def headlines(rows: int = 300) -> pl.DataFrame:
    """An aggregated log whose every row is a headline of its own, with what was found out afterwards beside it."""
    return pl.DataFrame(
        [
            {
                "headline": f"What nobody told you about {SUBJECTS[n % 10]}, part {n}",
                "lede": f"A longer story on {SUBJECTS[n % 10]} that is told in a sentence or two. " * 5,
                "format": ("video", "list", "story")[n % 3],
                "impressions": 40 + n % 20,
                "clicks": 1 + n % 4,
                "winner": n % 4 == 3,
                "significance": float(n % 7),
                "created_at": START + n * 600,
            }
            for n in range(rows)
        ]
    )


def init(folder: Path, frame: pl.DataFrame, **options: int) -> tuple[Draft, DatasetReport]:
    draft, report = init_dataset(SourceFiles(write(frame, folder / "log.csv")), folder / "out", {}, **options)  # type: ignore[arg-type]
    assert report.problems == ()
    return draft, report


def test_rows_that_are_items_of_their_own_keep_their_texts(tmp_path: Path) -> None:
    draft, report = init(tmp_path, headlines())
    dataset = load_dataset(tmp_path / "out")
    assert draft.roles["item"].column == "headline"
    assert "user" not in draft.roles
    assert dataset.config.items.text == "{headline}. {lede}. Format: {format}."
    assert dataset.items["text"].null_count() == 0
    assert dataset.items["title"][0] == "What nobody told you about bread, part 0"
    assert [(one.name, one.side) for one in dataset.config.features] == [("format", "item")]
    left = dict(draft.left_out)
    assert {"winner", "significance"} <= set(left)
    assert "what happens after the impression" in left["winner"]
    assert any("all events are one user's" in note for note in report.notes)


def test_counts_of_millions_are_kept_as_they_are(tmp_path: Path) -> None:
    many = headlines().with_columns(pl.col("impressions", "clicks") * 10_000)
    _, report = init(tmp_path, many)
    assert report.counts["events"] == 2 * many.height
    assert report.counts["impressions"] == many["impressions"].sum()
    rate = int(many["clicks"].sum()) / int(many["impressions"].sum())
    assert report.counts["click_rate"] == pytest.approx(rate, rel=1e-4)


def test_a_sample_of_single_impressions_keeps_users_whole(tmp_path: Path) -> None:
    frame = log(users=200, each=20)
    _, report = init(tmp_path, frame, sample=1_000)
    events = load_dataset(tmp_path / "out").events
    assert report.counts["events"] == 1_000
    assert events.group_by("user_id").len()["len"].unique().to_list() == [20]


def test_prose_that_comes_again_is_a_text_and_no_category(tmp_path: Path) -> None:
    prose = pl.col("adId").cast(pl.String) + pl.lit(" is what they say of it, in more words than a category has." * 6)
    dataset = make(tmp_path, log().with_columns(summary_of_it=prose))
    assert dataset.config.items.text == "{headline}. {summary_of_it}. Tags: {tags}."


def test_times_and_users_that_are_not_there_are_not_counted(tmp_path: Path) -> None:
    frame = log().select("Visitor ID", "adId", "Clicked?", "Price", "pos")
    _, report = init(tmp_path, frame)
    assert (report.counts["first_event"], report.counts["last_event"], report.counts["users"]) == (None, None, None)
    assert any("there are no times" in note for note in report.notes)


@pytest.mark.parametrize("ending", [".csv.gz", ".jsonl.gz", ".json", ".tsv as .csv"])
def test_packed_files_and_lists(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"log{ending}"
    if ending == ".csv.gz":
        path.write_bytes(gzip.compress(log().write_csv().encode()))
    elif ending == ".jsonl.gz":
        path.write_bytes(gzip.compress(log().write_ndjson().encode()))
    elif ending == ".json":
        path.write_text(json.dumps(log().to_dicts()))
    else:
        path = tmp_path / "log.csv"
        path.write_text(log().write_csv(separator="\t"))
    _, report = init_dataset(SourceFiles(path), tmp_path / "out", {})
    assert report.problems == ()
    assert report.counts["events"] == 240


def parts(folder: Path) -> Path:
    made = folder / "parts"
    for number in range(3):
        place = made / f"day={number}"
        place.mkdir(parents=True)
        frame = log().slice(number * 80, 80)
        (place / "part.csv.gz").write_bytes(gzip.compress(frame.write_csv().encode()))
    (made / "_SUCCESS").write_text("")
    return made


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    _, report = init_dataset(SourceFiles(parts(tmp_path)), tmp_path / "out", {})
    assert report.problems == ()
    assert report.counts["events"] == 240
    _, report = init_dataset(SourceFiles(write(log(), tmp_path / "log.csv")), tmp_path / "whole", {})
    assert load_dataset(tmp_path / "out").events.equals(load_dataset(tmp_path / "whole").events)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("day=1/part.csv.gz", b"", r"day=1/part.csv.gz: its columns differ"),
        ("day=1/part.csv.gz", b"\x1f\x8b\x08cut", "day=1/part.csv.gz: cannot be unpacked by gzip"),
        (
            "day=1/part.csv.gz",
            gzip.compress(b"a,b\n1,2\n", mtime=0),
            "its columns differ from those of parts/day=0/part.csv.gz: ",
        ),
        ("day=1/more.jsonl", b"{}", "parts: holds CSV and other files"),
    ],
)
def test_a_part_that_is_not_like_the_others_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = parts(tmp_path)
    (folder / name).write_bytes(content)
    if not content:
        (folder / name).write_bytes(gzip.compress(b"x\n1\n", mtime=0))
    with pytest.raises(InitError, match=message):
        init_dataset(SourceFiles(folder), tmp_path / "out", {})


def test_a_wrong_cell_of_a_part_is_told_with_its_own_row(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    text = gzip.decompress((folder / "day=2" / "part.csv.gz").read_bytes()).decode()
    lines = text.splitlines()
    lines[5] = lines[5].replace("yes", "maybe").replace(",no,", ",maybe,")
    (folder / "day=2" / "part.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(InitError) as error:
        init_dataset(SourceFiles(folder), tmp_path / "out", {"label": "Clicked?"})
    assert "parts/day=2/part.csv.gz, row 5, Clicked?: 'maybe' should be 0 (no click)" in str(error.value)
    assert "Clicked? was taken as the label (given by --label)" in str(error.value)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InitError, match=r"none: is a folder without a file that ends in \.parquet"):
        init_dataset(SourceFiles(tmp_path / "none"), tmp_path / "out", {})


def test_columns_that_know_the_outcome_are_pointed_at(tmp_path: Path) -> None:
    clicked = pl.col("Clicked?") == "yes"
    frame = log(users=60).with_columns(
        note=pl.when(clicked).then(pl.lit("thanks")).otherwise(pl.lit("shown")),
        seconds=pl.when(clicked).then(pl.col("pos") + 30.5).otherwise(pl.col("pos") * 0.5),
        stars=pl.col("adId") % 5 + 0.5,
    )
    _, report = init(tmp_path, frame.drop("revenue"))
    told = "\n".join(report.notes)
    assert "the context feature note (column note) alone tells clicks from the rest (AUC 1.000)" in told
    assert "the context feature seconds (column seconds) alone tells clicks from the rest (AUC 1.000)" in told
    assert "the item feature stars (column stars) is called like something that comes of impressions" in told
    assert "device" not in told


def test_negatives_that_were_sampled_beside_their_click_are_pointed_at(tmp_path: Path) -> None:
    frame = log(users=60).with_columns(
        pl.Series("Time", [(START + n // 5 * 60) * 1000 for n in range(1_200)]),
        pl.Series("Visitor ID", [f"v{n // 5 % 60}" for n in range(1_200)]),
        pl.Series("Clicked?", ["yes" if n % 5 == 0 else "no" for n in range(1_200)]),
    )
    _, report = init(tmp_path, frame)
    told = "\n".join(report.notes)
    assert "100% of the moments hold exactly one click beside 4.0 events without one" in told
    assert "bring impressions that were really shown" in told


def test_users_of_one_thing_each_are_told_of_before_gauc_is_read(tmp_path: Path) -> None:
    frame = headlines().with_columns(site=pl.Series([f"s{n % 30}" for n in range(300)]))
    _, report = init_dataset(SourceFiles(write(frame, tmp_path / "l.csv")), tmp_path / "out", {"user": "site"})
    assert report.problems == ()
    assert any("GAUC will be .5 for every model" in note for note in report.notes)


def test_nobodys_log_is_taken_for_one_users(tmp_path: Path) -> None:
    frame = log().drop("Visitor ID")
    with pytest.raises(InitError, match="or give --no-user to treat all rows as one user's"):
        init(tmp_path, frame)
    draft, _ = init(tmp_path, frame, no_user=True)
    assert "user" not in draft.roles
    assert "NO USER was found" in (tmp_path / "out" / "dataset.toml").read_text()
