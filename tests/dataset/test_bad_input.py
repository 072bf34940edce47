"""Datasets that are wrong: each fault is told with its file, row, column and value."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from msd.dataset.load import load_dataset
from msd.dataset.problem import DatasetError
from tests.dataset.small import CONFIG, EVENTS, ITEMS, USERS, spoil, write_small

LONG = "x" * 300


def fault(folder: Path) -> DatasetError:
    with pytest.raises(DatasetError) as error:
        load_dataset(folder)
    return error.value


TEXTS = {"events": EVENTS, "items": ITEMS, "users": USERS}


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "message"),
    [
        ("events", 3, "label", "2", "label: '2' should be 0 (no click) or 1 (click)"),
        ("events", 3, "label", "yes", "label: 'yes' is not a number"),
        ("events", 3, "label", "nan", "label: 'nan' should be 0 (no click) or 1 (click)"),
        ("events", 3, "label", "", "label: the value is missing"),
        ("events", 3, "user_id", "", "user_id: the value is missing; leave the row out"),
        ("events", 3, "item_id", LONG, "… exceeds the maximum of 256 bytes for an id"),
        ("events", 3, "item_id", "a\0b", "item_id: 'a\\x00b' holds a NUL character"),
        ("events", 3, "at", "noon", "at: 'noon' is neither unix seconds nor an ISO 8601 time"),
        ("events", 3, "at", "", "at: the value is missing"),
        ("events", 3, "at", "-5", "at: '-5' is not a time between 1970 and 2242 in unix seconds"),
        ("events", 3, "at", "1700000000000", "at: '1700000000000' is not a time between 1970 and 2242"),
        ("events", 3, "at", "nan", "at: 'nan' is not a time between"),
        ("events", 3, "at", "9999-99-99", "at: '9999-99-99' is neither"),
        ("events", 3, "device", LONG, "exceeds the maximum of 256 characters for a category"),
        ("items", 2, "price", "cheap", "price: 'cheap' is not a number"),
        ("items", 2, "price", "inf", "price: 'inf' is not a finite number; leave the cell empty"),
        ("items", 2, "price", "1e999", "price: '1e999' is not a finite number"),
        ("items", 2, "item_id", "1", "item_id: '1' repeats the id of an earlier row; keep one"),
        ("items", 2, "tags", LONG, "holds a value that exceeds the maximum of 256 characters for a category"),
        ("users", 4, "user_id", "u2", "user_id: 'u2' repeats the id of an earlier row"),
    ],
)
def test_rejects_wrong_cell(tmp_path: Path, name: str, row: int, column: str, value: str, message: str) -> None:
    error = fault(write_small(tmp_path, **{name: spoil(TEXTS[name], row, column, value)}))
    (problem,) = error.problems
    assert message in str(error)
    assert f"{name}.csv, row {row}, {column}: " in str(error)
    assert (problem.file, problem.row, problem.column) == (f"{name}.csv", row, column)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("events", EVENTS.replace("label", "clicked"), "label: is missing; the file has the columns user_id"),
        ("events", EVENTS.replace("device", "phone"), "events.csv, device: is missing"),
        ("items", ITEMS.replace("title", "name"), "items.csv, title: is missing"),
        ("items", ITEMS.replace("item_id", "id"), "items.csv, item_id: is missing"),
        ("users", USERS.replace("city", "town"), "users.csv, city: is missing"),
        ("events", "", "events.csv: is empty: it has no row of data"),
        ("events", "user_id,item_id,at,label,device\n", "events.csv: is empty: it has no row of data"),
        ("events", "user_id,item_id,at,label,device\n\n\n", "events.csv: is empty: it has no row of data"),
        ("items", "item_id,title,title\n1,a,b\n", "items.csv: these columns occur twice in the header: 'title'"),
        ("items", ITEMS + "11,Rope,outdoor,5,6,7\n", "items.csv, row 4: has 6 cells where the header has 4"),
        ("items", ITEMS + "11,Rop", "items.csv, row 4: has 2 cells where the header has 4"),
        ("items", ITEMS + '11,"Rope,outdoor,5\n', "items.csv, row 4: "),
        ("items", re.sub("\n(?=[12])", "\na", ITEMS), "item_id: no event has an id of this table, which holds a1"),
        ("users", USERS.replace("u", "v"), "users.csv, user_id: is missing"),
        ("users", USERS.replace("\nu", "\nv"), "which holds v1, v2, v3 where events hold u1, u2, u3"),
        ("config", CONFIG.replace("{city}", "{town}"), "users.text: names {town}, which is no column of users.csv"),
        ("config", CONFIG.replace("{tags}", "{}"), "items.text: names {}, which is no column of items.csv"),
        ("config", CONFIG.replace("{tags}", "{tags"), "items.text: the template is malformed"),
        ("config", CONFIG.replace("{title}, {tags}", "an ad"), "items.text: the template names no column"),
    ],
)
def test_rejects_wrong_file(tmp_path: Path, key: str, text: str, message: str) -> None:
    assert message in str(fault(write_small(tmp_path, **{key: text})))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage\x80\x81,\n\xff", b"\x00" * 100, b"PAR1" + b"\x01" * 50])
def test_rejects_damaged_file(tmp_path: Path, ending: str, content: bytes) -> None:
    folder = write_small(tmp_path, config=CONFIG.replace("items.csv", f"items.{ending}"))
    (folder / f"items.{ending}").write_bytes(content)
    assert f"items.{ending}" in str(fault(folder))


ITEM = {"item_id": "1", "title": "Tent", "tags": ["a"], "price": 1.5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "items.jsonl, row 2: is not valid JSON"),
        ("[1]", "items.jsonl, row 2: should be a JSON object"),
        ("[" * 100_000, "items.jsonl, row 2: is not valid JSON"),
        (json.dumps(ITEM | {"item_id": True}), "items.jsonl, row 2: item_id is true, of another type than other rows"),
        (json.dumps(ITEM | {"price": "1.5"}), 'items.jsonl, row 2: price is "1.5", of another type than other rows'),
        (json.dumps(ITEM | {"tags": "a|b"}), 'items.jsonl, row 2: tags is "a|b", of another type than other rows'),
        (json.dumps(ITEM | {"item_id": "2", "price": float("nan")}), "row 2, price: nan is not a finite number"),
        (json.dumps(ITEM | {"price": 10**400}), "items.jsonl, row 2: price is not a value that a column can hold"),
        (json.dumps(ITEM | {"item_id": ""}), "items.jsonl, row 2, item_id: '' is an empty id"),
        (json.dumps(ITEM | {"item_id": None}), "items.jsonl, row 2, item_id: the value is missing"),
        (json.dumps(ITEM | {"item_id": "2", "tags": ["a", None]}), "row 2, tags: ['a', None] holds a missing value"),
        (json.dumps(ITEM | {"item_id": "2", "tags": [["b"]]}), 'row 2: tags is [["b"]], where the list may hold'),
        (json.dumps(ITEM | {"item_id": "2", "tags": [True]}), "row 2: tags is [true], where the list may hold"),
        (json.dumps(ITEM | {"item_id": "2", "title": "\ud800"}), "row 2: title is not a value that a column can hold"),
    ],
)
def test_rejects_wrong_json_line(tmp_path: Path, line: str, message: str) -> None:
    folder = write_small(tmp_path, config=CONFIG.replace("items.csv", "items.jsonl"))
    lines = [json.dumps(ITEM), line, *(json.dumps(ITEM | {"item_id": str(n)}) for n in range(3, 6))]
    (folder / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert message in str(fault(folder))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("label", [True, False], "label: has type Boolean; expected numbers"),
        ("label", ["1", "0"], "label: has type String; expected numbers"),
        ("user_id", [1.0, 2.0], "user_id: has type Float64; expected text or whole numbers"),
        ("device", [1.5, 2.5], "device: has type Float64; expected text or whole numbers"),
        ("fold", [0.5, 0.5], "fold: has type Float64; expected text or whole numbers"),
        ("device", [["a"], ["b"]], "device: has type List(String); expected text or whole numbers"),
        ("at", [True, False], "at: has type Boolean; expected numbers"),
        ("at", [[1], [2]], "at: has type List(Int64); expected numbers"),
        ("at", [1e300, float("nan")], "row 1, at: 1e+300 is not a time between 1970 and 2242"),
        (
            "at",
            pl.Series([2**62, 5]).cast(pl.Datetime("us")),
            f"row 1, at: {2**62} is not a time between 1970 and 2242",
        ),
        ("label", [None, None], "row 2, label: the value is missing"),
    ],
)
def test_rejects_column_of_the_wrong_type(tmp_path: Path, column: str, values: object, message: str) -> None:
    split = '[split]\ncolumn = "fold"\n' if column == "fold" else ""
    folder = write_small(tmp_path, config=CONFIG.replace("events.csv", "events.parquet") + split)
    columns = {"user_id": ["u1", "u2"], "item_id": [1, 2], "at": [5, 6], "label": [0, 1], "device": ["ios", None]}
    pl.DataFrame(columns | {column: values}).write_parquet(folder / "events.parquet")
    assert f"events.parquet, {message}" in str(fault(folder))


def test_rejects_lists_as_numbers_and_numbers_as_bags(tmp_path: Path) -> None:
    folder = write_small(tmp_path, config=CONFIG.replace("items.csv", "items.parquet"))
    pl.DataFrame({"item_id": [1], "title": [3], "tags": [4.5], "price": [[1.0]]}).write_parquet(
        folder / "items.parquet"
    )
    assert [str(problem) for problem in fault(folder).problems] == [
        "items.parquet, tags: has type Float64; expected lists of categories, or text to split",
        "items.parquet, price: has type List(Float64); expected numbers",
        "items.parquet, title: has type Int64, where text is due",
    ]


def test_rejects_time_beyond_the_calendar_in_a_text(tmp_path: Path) -> None:
    config = CONFIG.replace("items.csv", "items.parquet").replace("{title}", "{price}")
    folder = write_small(tmp_path, config=config)
    far = pl.Series([2**62]).cast(pl.Datetime("us"))
    pl.DataFrame({"item_id": [1], "title": ["a"], "tags": [["b"]], "price": far}).write_parquet(
        folder / "items.parquet"
    )
    assert "out of range" in str(fault(folder))


def test_all_problems_are_reported_and_grouped(tmp_path: Path) -> None:
    events = EVENTS
    for row in range(1, 31):
        events = spoil(events, row, "label", "7")
    error = fault(write_small(tmp_path, events=events, items=spoil(ITEMS, 1, "price", "x")))
    assert len(error.problems) == 31
    lines = str(error).splitlines()
    assert "has 31 problems" in lines[0]
    assert lines[1] == "  events.csv, row 1, label: '7' should be 0 (no click) or 1 (click) (and so in 29 more rows)"
    assert lines[2] == "  items.csv, row 1, price: 'x' is not a number"
    assert lines[3].endswith("--json` lists them all")
    assert len(lines) == 4
