"""Datasets in order: one canonical form, whichever format the files have."""

import json
import os
import resource
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from msd.dataset import order, split, table
from msd.dataset.load import inspect_dataset, load_dataset
from msd.dataset.split import split_events
from tests.dataset.small import CONFIG, EVENTS, ITEMS, write_small
from tests.dataset.tiny import write_tiny_dataset


def test_tables_are_canonical(tmp_path: Path) -> None:
    dataset = load_dataset(write_small(tmp_path))
    core = {"user_id": pl.String, "item_id": pl.String, "at": pl.Int64, "label": pl.Int8}
    assert dict(dataset.events.schema) == {**core, "device": pl.String}
    texts = {"item_id": pl.String, "title": pl.String, "text": pl.String}
    assert dict(dataset.items.schema) == {**texts, "tags": pl.List(pl.String), "price": pl.Float64}
    assert dataset.items.rows() == [
        ("1", "Tent", "Tent, camping, outdoor", ["camping", "outdoor"], 99.5),
        ("2", "Boots", "Boots, outdoor", ["outdoor"], None),
        ("10", "Mystery", "Mystery,", None, 7.0),
    ]
    assert dataset.users.row(0) == ("u1", "from York", "York")


def test_events_are_sorted_with_numeric_ids_by_number(tmp_path: Path) -> None:
    rows = [f"u{user},{item},5,1,ios" for user in (2, 1) for item in ("b", "a", "10", "9", "9" * 30)]
    events = "user_id,item_id,at,label,device\n" + "\n".join([*rows, "u1,10,4,0,ios"])
    frame = load_dataset(write_small(tmp_path, events=events)).events
    assert frame.select("user_id", "item_id").rows() == [
        ("u1", "10"),
        *[(user, item) for user in ("u1", "u2") for item in ("9", "10", "9" * 30, "a", "b")],
    ]


def rewrite(folder: Path, name: str, ending: str) -> None:
    """Turns a CSV file of the small dataset into another format with proper types."""
    frame = pl.read_csv(folder / f"{name}.csv")
    if "tags" in frame.columns:
        frame = frame.with_columns(pl.col("tags").str.split("|"))
    if ending == "parquet":
        if "at" in frame.columns:
            frame = frame.with_columns(pl.from_epoch("at"))
        frame.write_parquet(folder / f"{name}.parquet")
    else:
        lines = [json.dumps(row) for row in frame.iter_rows(named=True)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    toml = (folder / "dataset.toml").read_text(encoding="utf-8")
    (folder / "dataset.toml").write_text(toml.replace(f"{name}.csv", f"{name}.{ending}"), encoding="utf-8")


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_file_formats_give_equal_datasets(tmp_path: Path, ending: str) -> None:
    from_csv = load_dataset(write_small(tmp_path / "csv"))
    folder = write_small(tmp_path / ending)
    for name in ("events", "items", "users"):
        rewrite(folder, name, ending)
    other = load_dataset(folder)
    for name in ("events", "items", "users"):
        assert_frame_equal(getattr(from_csv, name), getattr(other, name))


def test_events_read_in_blocks_are_those_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_dataset(tmp_path)
    events = pl.read_parquet(folder / "events.parquet")
    # Few items on few days, so that events tie, also between blocks.
    few = events.with_columns(
        pl.col("at") // 2_592_000 * 2_592_000, pl.lit(1, events.schema["item_id"]).alias("item_id")
    )
    pl.concat([events, few]).sample(fraction=1.0, shuffle=True, seed=0).write_parquet(folder / "events.parquet")
    whole = load_dataset(folder)
    parts = split_events(whole.events, whole.config)
    for module in (order, split, table):
        monkeypatch.setattr(module, "BLOCK", 64)
    found = load_dataset(folder)
    assert found.events.n_chunks() > 20 > whole.events.n_chunks()
    assert_frame_equal(found.events, whole.events)
    assert np.array_equal(split_events(found.events, found.config), parts)


@pytest.mark.parametrize("is_zoned", [True, False])
def test_times_with_and_without_zone_are_refused_also_in_other_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_zoned: bool
) -> None:
    monkeypatch.setattr(table, "BLOCK", 2)
    zones = ("+05:00", "") if is_zoned else ("", "+05:00")
    folder = write_small(tmp_path, config=CONFIG.replace("events.csv", "events.parquet"))
    at = [f"2024-05-01T12:30:00{zone}" for zone in zones for _ in range(2)]
    frame = pl.DataFrame({"user_id": "u1", "item_id": 1, "at": at, "label": [0, 1, 0, 1], "device": "ios"})
    frame.write_parquet(folder / "events.parquet")
    _, problems = inspect_dataset(folder)

    assert [(one.row, one.column) for one in problems] == ([(3, "at"), (4, "at")] if is_zoned else [(None, "at")])
    assert all("time zone" in one.message for one in problems)


def test_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, unlimited[1]))
    try:
        with pytest.raises(OSError, match=r"\.arrow") as full:
            order.sort_blocks([pl.DataFrame({"user_id": "u", "item_id": "i", "at": [1], "label": [0]})])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "too large" in str(full.value)


MOMENT = int(datetime(2024, 5, 1, 12, 30, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    "written",
    [str(MOMENT), f"{MOMENT}.75", "2024-05-01T12:30:00Z", "2024-05-01 12:30:00", "2024-05-01T14:30:00+02:00"],
)
def test_times_in_text(tmp_path: Path, written: str) -> None:
    folder = write_small(tmp_path, events=f"user_id,item_id,at,label,device\nu1,1,{written},1,ios\n")
    assert load_dataset(folder).events["at"][0] == MOMENT


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([datetime(2024, 5, 1, 12, 30)], dtype=pl.Datetime("ms")),
        pl.Series([datetime(2024, 5, 1, 12, 30)]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
        pl.Series([MOMENT + 0.5]),
        pl.Series([MOMENT], dtype=pl.UInt32),
    ],
)
def test_times_in_columns(tmp_path: Path, times: pl.Series) -> None:
    folder = write_small(tmp_path, config=CONFIG.replace("events.csv", "events.parquet"))
    frame = pl.DataFrame({"user_id": ["u1"], "item_id": [1], "at": times, "label": [True], "device": ["ios"]})
    frame.with_columns(label=pl.col("label").cast(pl.Int64)).write_parquet(folder / "events.parquet")
    assert load_dataset(folder).events["at"].to_list() == [MOMENT]


def test_dataset_without_users_has_an_empty_table(tmp_path: Path) -> None:
    config = CONFIG.replace('[users]\nfile = "users.csv"\ntext = "from {city}"\n', "").replace(
        'name = "city"\nside = "user"', 'name = "city"\nside = "context"\ncolumn = "device"'
    )
    dataset = load_dataset(write_small(tmp_path, config=config))
    assert dataset.users.height == 0
    assert dataset.users.columns == ["user_id", "text"]
    assert dataset.events["city"].unique().to_list() == ["ios"]


def test_bags_are_split_at_the_separator(tmp_path: Path) -> None:
    config = CONFIG.replace('kind = "bag"', 'kind = "bag"\nseparator = ";"')
    items = ITEMS.replace("camping|outdoor", "camping; outdoor;;")
    tags = load_dataset(write_small(tmp_path, config=config, items=items)).items["tags"]
    assert tags[0].to_list() == ["camping", "outdoor"]


def test_text_without_values_is_missing(tmp_path: Path) -> None:
    items = ITEMS.replace("10,Mystery,,7", "10,,,7")
    assert load_dataset(write_small(tmp_path, items=items)).items["text"].to_list()[2] is None


def test_reads_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    (folder / "items.csv").write_bytes(b"\xef\xbb\xbf" + ITEMS.replace("\n", "\r\n").encode())
    assert load_dataset(folder).items["item_id"].to_list() == ["1", "2", "10"]


def test_reads_a_wide_header(tmp_path: Path) -> None:
    """Wider than 2¹⁷ characters, of which `csv` reads no more in one cell."""
    header, *rows = EVENTS.splitlines()
    names = [f"c{place:0300}" for place in range(500)]
    wide = "\n".join([",".join([header, *names]), *(row + "," * len(names) for row in rows)])
    folder = write_small(tmp_path, events=wide)
    assert_frame_equal(load_dataset(folder).events, load_dataset(write_small(tmp_path / "narrow")).events)


def test_lines_may_end_as_on_old_macs(tmp_path: Path) -> None:
    whole, folder = load_dataset(write_small(tmp_path / "unix")), write_small(tmp_path / "mac")
    for name in ("events", "items", "users"):
        (folder / f"{name}.csv").write_bytes((folder / f"{name}.csv").read_bytes().replace(b"\n", b"\r"))
    found = load_dataset(folder)
    for name in ("events", "items", "users"):
        assert_frame_equal(getattr(found, name), getattr(whole, name))


def test_rejects_a_path_that_polars_cannot_read(tmp_path: Path) -> None:
    folder = write_small(tmp_path / os.fsdecode(b"\xff"), config=CONFIG.replace("events.csv", "events.parquet"))
    (folder / "events.parquet").touch()
    _, problems = inspect_dataset(folder)

    assert {one.message for one in problems} == {"its path is not in UTF-8: rename its folder"}


def test_fingerprint_changes_with_every_file(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    seen = {load_dataset(folder).fingerprint}
    assert seen == {load_dataset(folder).fingerprint}
    for name in ("dataset.toml", "events.csv", "items.csv", "users.csv"):
        (folder / name).write_text((folder / name).read_text(encoding="utf-8") + "\n", encoding="utf-8")
        seen.add(load_dataset(folder).fingerprint)
    assert len(seen) == 5
