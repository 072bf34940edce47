"""Logs that cannot be read as they are: each is refused with place, fault and remedy, and nothing is written.

The mistakes made most are on in tests/docs/mistakes.py.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from msd.dataset.log.scaffold import SourceFiles, init_dataset
from msd.dataset.problem import InitError

START = 1_714_550_400
N = pl.int_range(pl.len())
ROWS = pl.select(N.cast(pl.String).alias("n") for N in [pl.int_range(120)]).select(
    user_id="u" + (N % 6).cast(pl.String),
    ad_id="a" + (N % 5).cast(pl.String),
    at=(START + N * 600).cast(pl.String),
    device=pl.when(N % 3 == 0).then(pl.lit("ios")).otherwise(pl.lit("web")),
    clicked=(N * 7 % 4 == 0).cast(pl.Int8).cast(pl.String),
)
DROP = pl.lit(None)  # by identity


def in_row(row: int, column: str, value: str | None) -> pl.Expr:
    """A column with another value in one row; rows count from 1."""
    return pl.when(row - 1 == N).then(pl.lit(value)).otherwise(column)


def refused(folder: Path, sources: SourceFiles, options: Mapping[str, Any]) -> str:
    """The message, which says what `msd data init` refuses."""
    others = ("no_user", "in_order", "time_format", "leave_out", "keep")
    roles: dict[Any, str] = {name: value for name, value in options.items() if name not in others}
    with pytest.raises(InitError) as error:
        init_dataset(sources, folder / "out", roles, **{name: options[name] for name in others if name in options})
    assert not (folder / "out").exists()
    return str(error.value)


EVENT = pl.when(N % 2 == 0).then(pl.lit("impression")).otherwise(pl.lit("click"))
DAYS = pl.format("0{}/0{}/2024", N % 9 + 1, N % 7 + 1)
ZONED = pl.format("2024-05-01T10:00:{}{}", N % 50 + 10, pl.when(N % 2 == 0).then(pl.lit("Z")).otherwise(pl.lit("")))
COUNTED = {"clicked": DROP, "impressions": pl.lit("2"), "clicks": (N % 2 * 5).cast(pl.String)}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"user_id": pl.lit(None, pl.String)}, {}, "no column name identifies the user"),
        ({"ad_id": DROP, "summary": pl.lit("so very good")}, {}, "no column name identifies the item"),
        ({"ad_id": in_row(4, "ad_id", "x" * 300)}, {}, "row 4, ad_id: 'xxxx"),
        ({}, {"user": "ad_id", "item": "ad_id"}, "--item ad_id: is also given by --user; a column has one role"),
        (
            {"clicked": DROP, "a": pl.col("clicked"), "b": pl.col("clicked")},
            {},
            "clicked, 0 or 1, among user_id, ad_id, at, device, a, b; give --label a or --label b; if all",
        ),
        ({"clicked": (N % 5).cast(pl.String)}, {}, "clicked: holds 0, 1, 2, 3, not 0 or 1, or no or yes; if all rows"),
        (
            {"clicked": in_row(4, "clicked", "NaN")},
            {},
            "row 4, clicked: the value is missing; write 0 if that means no",
        ),
        ({"clicked": in_row(4, "clicked", "maybe")}, {"label": "clicked"}, "clicked was taken as the label (given by"),
        ({}, {"clicks": "device"}, "--clicks device: name the column of impressions with --impressions too"),
        ({}, {"label": "clicked", "clicks": "at"}, "--label and --clicks both say what was clicked; give one of them"),
        (COUNTED | {"clicks": pl.lit("-1")}, {}, "row 1, clicks: '-1' should be a count: a whole number of at least 0"),
        (
            {"bought": pl.lit("7")},
            {"conversion": "bought"},
            "bought: '7' should be 0 (no conversion) or 1 (conversion)",
        ),
        ({"at": DAYS}, {"time_format": "%Y.%m.%d"}, "at: '01/01/2024' is not a time of the form %Y.%m.%d, though"),
        ({"at": in_row(4, "at", "soon")}, {"time": "at"}, "row 4, at: 'soon' is neither unix seconds nor an ISO 8601"),
        (
            {"at": pl.format("day {}", N)},
            {},
            "at: 'day 0' is neither unix seconds since 1990 nor an ISO 8601 time such",
        ),
        ({"at": in_row(4, "at", "1714551466000")}, {}, "and '1714551466000' are written in different forms, though"),
        ({"at": ZONED + " CEST"}, {}, "say how it is written, as --time-format"),
        (
            {"at": DROP, "t": pl.col("at"), "s": pl.col("at")},
            {},
            "these hold times: t, s; give --time t or --time s, or --no-time",
        ),
        ({}, {"leave_out": ["price"]}, "--leave-out price: there is no such column; there are user_id, ad_id, at"),
        ({}, {"keep": ["price"]}, "--keep price: there is no such column"),
        ({}, {"leave_out": ["ad_id"]}, "no column name identifies the item"),
        ({}, {"kind": "event"}, "--kind event: log.csv has no such column"),
        (
            {},
            {"kind": "device"},
            "--kind device: it should hold the words impression and click, and may hold conversion",
        ),
        ({"event": EVENT}, {}, "0 of 60 rows of outcomes find their impression by an ID; name the column that an"),
        (
            {"event": EVENT, "request_id": N.cast(pl.String)},
            {},
            "0 of 60 rows of outcomes find their impression by request_id",
        ),
        (
            {"event": EVENT, "clicked": pl.lit("1"), "request_id": (N // 2).cast(pl.String)},
            {},
            "has a column clicked beside rows of",
        ),
    ],
)
def test_refuses_log_with_reason(
    tmp_path: Path, changes: Mapping[str, pl.Expr], options: Mapping[str, Any], message: str
) -> None:
    dropped = [name for name, value in changes.items() if value is DROP]
    frame = ROWS.with_columns(value.alias(name) for name, value in changes.items() if value is not DROP).drop(dropped)
    frame.write_csv(tmp_path / "log.csv")
    assert message in refused(tmp_path, SourceFiles(tmp_path / "log.csv"), options)


HEAD = "user_id,ad_id,at,clicked\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"\n" + HEAD.encode(), "log.csv: its first line is blank: let it be the columns' names"),
        ("log.csv", b"Report\n" + HEAD.encode(), "',', or remove what stands above the header"),
        (
            "log.txt",
            b"0\t1\t\t\t05db\n1\t2\t3\t\t05db\n",
            "these columns occur twice in the header: ''; rename one, or add",
        ),
        ("log.csv", gzip.compress(HEAD.encode(), mtime=0), "log.csv: is compressed by gzip: let its name end in .gz"),
        ("parts/day=1/log.csv.gz", b"\x1f\x8b\x08cut", "parts/day=1/log.csv.gz: cannot be unpacked by gzip"),
        ("parts/a.csv", b"a,b\n1,2\n", "day=0/log.csv.gz: its columns differ from those of parts/a.csv: only one of"),
        ("parts/more.jsonl", b"{}", "parts: holds CSV and other files"),
        ("none/readme.md", b"", "none: is a folder without a file that ends in .parquet"),
    ],
)
def test_refuses_file_with_reason(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    for file, bytes_ in {
        "parts/day=0/log.csv.gz": gzip.compress(HEAD.encode() + b"u1,a1,5,0\n"),
        name: content,
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(bytes_)
    log = path if path.parent == tmp_path else tmp_path / name.split("/")[0]
    assert message in refused(tmp_path, SourceFiles(log), {})


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("sku,colour\nx,red\ny,blue\n", "items.csv: no column holds the item ids of the events, such as a0, a1, a2"),
        ("ad_id,colour\na1,red\na1,blue\n", "items.csv, row 2, ad_id: 'a1' repeats the id of an earlier row"),
        (None, "items.csv: there is no such file"),
    ],
)
def test_refuses_table_of_items_with_reason(tmp_path: Path, items: str | None, message: str) -> None:
    ROWS.write_csv(tmp_path / "log.csv")
    if items:
        (tmp_path / "items.csv").write_text(items, encoding="utf-8")
    assert message in refused(tmp_path, SourceFiles(tmp_path / "log.csv", items=tmp_path / "items.csv"), {})


@pytest.mark.parametrize(
    ("options", "key"), [({}, "request_id"), ({"item": "request_id"}, "user_id and request_id; name the column")]
)
def test_refuses_clicks_without_impressions_in_another_file(
    tmp_path: Path, options: Mapping[str, str], key: str
) -> None:
    ROWS.drop("clicked").with_columns(request_id=N.cast(pl.String)).write_csv(tmp_path / "log.csv")
    pl.DataFrame({"request_id": ["x", "y"]}).write_csv(tmp_path / "clicks.csv")
    sources = SourceFiles(tmp_path / "log.csv", clicks=tmp_path / "clicks.csv")
    assert f"clicks.csv: 0 of 2 rows of outcomes find their impression by {key}" in refused(tmp_path, sources, options)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.parquet"])
def test_refuses_file_that_cannot_be_read_with_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")
    assert f"{name}: cannot be read: Input/output error" in refused(tmp_path, SourceFiles(tmp_path / name), {})
