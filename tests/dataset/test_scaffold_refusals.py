"""`msd data init` on packed, partitioned and aggregated logs; refusals name the fault and write nothing."""

import gzip
import resource
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.column import is_anonymous
from msd.dataset.load import load_dataset
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from msd.dataset.problem import InitError
from tests.dataset.logs import START, init, left_out, log, make, write


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
        with pytest.raises(InitError, match="cannot be written: .*; name another folder"):
            init_dataset(SourceFiles(path), tmp_path / "out", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


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


def test_rows_that_are_items_keep_their_texts(tmp_path: Path) -> None:
    draft, report = init(tmp_path, headlines(), item="headline", no_user=True)
    dataset = load_dataset(tmp_path / "out")
    assert "user" not in draft.roles
    assert dataset.config.items.text == "{headline}. {lede}. Format: {format}."
    assert dataset.items["text"].null_count() == 0
    assert dataset.items["title"][0] == "What nobody told you about bread, part 0"
    assert [(feature.name, feature.side) for feature in dataset.config.features] == [("format", "item")]
    left = left_out(draft)
    assert {"winner", "significance"} <= set(left)
    assert "what happens after the impression" in left["winner"]
    assert dataset.events.select(is_anonymous()).to_series().all()
    assert (report.counts["anonymous_events"], report.counts["users_with_events"]) == (report.counts["events"], 0)


def test_sample_keeps_users_whole(tmp_path: Path) -> None:
    frame = log(users=200, each=20)
    _, report = init(tmp_path, frame, sample=1_000)
    events = load_dataset(tmp_path / "out").events
    assert report.counts["events"] == 1_000
    assert events.group_by("user_id").len()["len"].unique().to_list() == [20]


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
    events = load_dataset(tmp_path / "out").events
    assert events["day"].unique().sort().to_list() == ["0", "1", "2"]
    assert events.drop("day").equals(load_dataset(tmp_path / "whole").events)


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


def test_leaking_columns_are_noted_where_a_person_keeps_them(tmp_path: Path) -> None:
    clicked = pl.col("Clicked?") == "yes"
    frame = log(users=60).with_columns(
        note=pl.when(clicked).then(pl.lit("thanks")).otherwise(pl.lit("shown")), stars=pl.col("adId") % 5 + 0.5
    )
    _, report = init(tmp_path, frame, keep=["note", "stars"])
    found = "\n".join(report.notes)
    assert "the context feature note (column note) may be known only after the impression: it is other than" in found
    assert "the item feature stars (column stars) may be known only after the impression: its name speaks" in found
    assert "device" not in found


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
    _, report = init(tmp_path, frame, user="site", item="headline")
    assert any("GAUC will be .5 for every model" in note for note in report.notes)
