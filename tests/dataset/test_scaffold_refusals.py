"""`msd data init` on packed, partitioned and aggregated logs; refusals name the fault and write nothing."""

import gzip
import json
import resource
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.check import DatasetReport
from msd.dataset.draft import Draft
from msd.dataset.load import load_dataset
from msd.dataset.roles import InitError
from msd.dataset.scaffold import SourceFiles, init_dataset
from tests.dataset.logs import START, log, make, write


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
def test_asks_for_unidentified_columns(tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    frame = log()
    if dropped := change.get("drop"):
        frame = frame.drop(dropped)
    else:
        frame = frame.with_columns(pl.lit(value, pl.String).alias(name) for name, value in change.items())
    with pytest.raises(InitError) as error:
        make(tmp_path, frame)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_names_both_candidates_of_a_role(tmp_path: Path) -> None:
    frame = log().rename({"Clicked?": "a", "Time": "t"}).with_columns(b=pl.col("a"), s=pl.col("t"))
    with pytest.raises(InitError, match="t, s all hold times; name the one of the impression with --time"):
        make(tmp_path, frame)
    with pytest.raises(InitError, match="a, b all hold only zeros and ones; name the one"):
        make(tmp_path, frame, time="t")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("Visitor ID", None, "log.csv, row 4, Visitor ID: the value is missing"),
        ("adId", "x" * 300, "exceeds the maximum of 256 bytes for an id"),
        ("Clicked?", "maybe", "log.csv, row 4, Clicked?: 'maybe' should be 0 (no click) or 1 (click), or no or yes"),
        ("Clicked?", None, "log.csv, row 4, Clicked?: the value is missing"),
        ("Time", "yesterday", "log.csv, row 4, Time: 'yesterday' is neither unix seconds nor an ISO 8601 time"),
    ],
)
def test_wrong_cell_is_named_by_place(tmp_path: Path, column: str, value: str | None, message: str) -> None:
    frame = log().with_columns(pl.all().cast(pl.String))
    values = frame[column].to_list()
    values[3] = value
    with pytest.raises(InitError) as error:
        make(tmp_path, frame.with_columns(pl.Series(column, values)), label="Clicked?", time="Time")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_flag_is_no_label(tmp_path: Path) -> None:
    frame = log().drop("Clicked?").with_columns(is_mobile=pl.col("pos") % 2, impressions=pl.col("pos") % 2)
    with pytest.raises(InitError, match="no column says whether it was clicked"):
        make(tmp_path, frame)


def test_killed_run_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "events.parquet").write_bytes(b"PAR1")
    (tmp_path / "out").mkdir()
    init_dataset(SourceFiles(write(log(), tmp_path / "log.csv")), tmp_path / "out", {})
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "out"}
    assert "dataset.toml" in {path.name for path in (tmp_path / "out").iterdir()}


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    path = write(log(), tmp_path / "log.csv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on a file's size fails a write as a full disk does; Python ignores the signal that comes with it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(InitError, match="cannot be written: .*; name another folder with --out"):
            init_dataset(SourceFiles(path), tmp_path / "out", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_rejects_unusable_files_and_folders(tmp_path: Path) -> None:
    path = write(log(), tmp_path / "log.csv")
    empty, sheet = tmp_path / "empty.csv", tmp_path / "log.xlsx"
    empty.write_text("a,b\n", encoding="utf-8")
    (none := tmp_path / "none").mkdir()
    sheet.write_bytes(b"PK")
    for source, message in (
        (tmp_path / "gone.csv", "gone.csv: there is no such file"),
        (empty, "empty.csv: is empty: it has no row of data"),
        (none, r"none: is a folder without a file that ends in \.parquet"),
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


def test_rows_that_are_items_keep_their_texts(tmp_path: Path) -> None:
    draft, report = init(tmp_path, headlines())
    dataset = load_dataset(tmp_path / "out")
    assert draft.roles["item"].column == "headline"
    assert "user" not in draft.roles
    assert dataset.config.items.text == "{headline}. {lede}. Format: {format}."
    assert dataset.items["text"].null_count() == 0
    assert dataset.items["title"][0] == "What nobody told you about bread, part 0"
    assert [(feature.name, feature.side) for feature in dataset.config.features] == [("format", "item")]
    left = dict(draft.left_out)
    assert {"winner", "significance"} <= set(left)
    assert "what happens after the impression" in left["winner"]
    assert any("all events are one user's" in note for note in report.notes)


def test_sample_keeps_users_whole(tmp_path: Path) -> None:
    frame = log(users=200, each=20)
    _, report = init(tmp_path, frame, sample=1_000)
    events = load_dataset(tmp_path / "out").events
    assert report.counts["events"] == 1_000
    assert events.group_by("user_id").len()["len"].unique().to_list() == [20]


@pytest.mark.parametrize("ending", [".csv.gz", ".jsonl.gz", ".json", ".tsv as .csv"])
def test_reads_packed_files_and_lists(tmp_path: Path, ending: str) -> None:
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
    assert (report.problems, report.counts["events"]) == ((), 240)


def parts(folder: Path) -> Path:
    made = folder / "parts"
    for number in range(3):
        place = made / f"day={number}"
        place.mkdir(parents=True)
        frame = log().slice(number * 80, 80)
        (place / "part.csv.gz").write_bytes(gzip.compress(frame.write_csv().encode()))
    (made / "_SUCCESS").write_text("")
    return made


def test_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    _, report = init_dataset(SourceFiles(parts(tmp_path)), tmp_path / "out", {})
    assert (report.problems, report.counts["events"]) == ((), 240)
    init_dataset(SourceFiles(write(log(), tmp_path / "log.csv")), tmp_path / "whole", {})
    assert load_dataset(tmp_path / "out").events.equals(load_dataset(tmp_path / "whole").events)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("day=1/part.csv.gz", b"\x1f\x8b\x08cut", "day=1/part.csv.gz: cannot be unpacked by gzip"),
        ("day=1/part.csv.gz", b"a,b\n1,2\n", "day=1/part.csv.gz: its columns differ from those of parts/day=0/part"),
        ("day=1/more.jsonl", b"{}", "parts: holds CSV and other files"),
    ],
)
def test_rejects_part_unlike_the_others(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    folder = parts(tmp_path)
    (folder / name).write_bytes(gzip.compress(content) if content.startswith(b"a,b") else content)
    with pytest.raises(InitError, match=message):
        init_dataset(SourceFiles(folder), tmp_path / "out", {})


def test_wrong_cell_of_a_part_is_named_by_its_row(tmp_path: Path) -> None:
    folder = parts(tmp_path)
    text = gzip.decompress((folder / "day=2" / "part.csv.gz").read_bytes()).decode()
    lines = text.splitlines()
    lines[5] = lines[5].replace("yes", "maybe").replace(",no,", ",maybe,")
    (folder / "day=2" / "part.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(InitError) as error:
        init_dataset(SourceFiles(folder), tmp_path / "out", {"label": "Clicked?"})
    assert "parts/day=2/part.csv.gz, row 5, Clicked?: 'maybe' should be 0 (no click)" in str(error.value)
    assert "Clicked? was taken as the label (given by --label)" in str(error.value)


def test_leaking_columns_are_noted(tmp_path: Path) -> None:
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


def test_sampled_negatives_are_noted(tmp_path: Path) -> None:
    frame = log(users=60).with_columns(
        pl.Series("Time", [(START + n // 5 * 60) * 1000 for n in range(1_200)]),
        pl.Series("Visitor ID", [f"v{n // 5 % 60}" for n in range(1_200)]),
        pl.Series("Clicked?", ["yes" if n % 5 == 0 else "no" for n in range(1_200)]),
    )
    _, report = init(tmp_path, frame)
    told = "\n".join(report.notes)
    assert "100% of the moments hold exactly one click beside 4.0 events without one" in told
    assert "bring impressions that were really shown" in told


def test_uninformative_gauc_is_noted(tmp_path: Path) -> None:
    frame = headlines().with_columns(site=pl.Series([f"s{n % 30}" for n in range(300)]))
    _, report = init_dataset(SourceFiles(write(frame, tmp_path / "l.csv")), tmp_path / "out", {"user": "site"})
    assert report.problems == ()
    assert any("GAUC will be .5 for every model" in note for note in report.notes)


def test_log_without_users_needs_no_user(tmp_path: Path) -> None:
    frame = log().drop("Visitor ID")
    with pytest.raises(InitError, match="or give --no-user to treat all rows as one user's"):
        init(tmp_path, frame)
    draft, _ = init(tmp_path, frame, no_user=True)
    assert "user" not in draft.roles
    assert "NO USER was found" in (tmp_path / "out" / "dataset.toml").read_text()


def test_rejects_more_clicks_than_impressions(tmp_path: Path) -> None:
    frame = log().drop("Clicked?")
    with pytest.raises(InitError, match=r"log\.csv, row 2, clicks: '5' is more than the impressions of its row"):
        make(tmp_path, frame.with_columns(impressions=pl.lit(2), clicks=pl.int_range(pl.len()) % 2 * 5))
    assert not (tmp_path / "out").exists()
