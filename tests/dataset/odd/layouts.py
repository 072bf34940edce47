"""Logs whose files, folders or nesting are odd."""

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from tests.dataset.odd.notations import SITE, cities, comma, csv, text
from tests.dataset.odd.world import OddLog, world

Row = dict[str, Any]
DAY = 86_400


def plain(row: Row) -> Row:
    return {"user_id": row["user"], "item_id": row["item"], "time": row["at"], "clicked": row["label"]} | {
        name: row[name] for name in row if name not in ("user", "item", "at", "label")
    }


def lines(shape: Callable[[Row], Row], name: str = "log.jsonl") -> Callable[[pl.DataFrame, Path], Path]:
    """A writer of JSON, one row a line, each row as `shape` makes it; packed, or as one array, by the file's name."""

    def write(frame: pl.DataFrame, folder: Path) -> Path:
        rows = [json.dumps(shape(row)) for row in frame.iter_rows(named=True)]
        content = f"[{','.join(rows)}]" if name.endswith(".json") else "\n".join(rows) + "\n"
        path = folder / name
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    return write


def by_day() -> pl.DataFrame:
    """The world where only the day of an impression is known."""
    return world().with_columns(pl.col("at") // DAY * DAY)


def parts(frame: pl.DataFrame, folder: Path, *keys: str, parquet: bool = False, drop: str = "") -> Path:
    """Write partitions in Hive's way by columns of the frame; a null is `__HIVE_DEFAULT_PARTITION__`."""
    dated = frame.with_columns(date=pl.from_epoch("at").dt.date().cast(pl.String))
    for values, rows in dated.group_by(*keys, maintain_order=True):
        part = folder / "log"
        for key, value in zip(keys, values, strict=True):
            part /= f"{key}={'__HIVE_DEFAULT_PARTITION__' if value is None else value}"
        part.mkdir(parents=True)
        kept = rows.drop(*keys, "date", *drop.split(), strict=False)
        kept = kept.rename({"user": "user_id", "item": "item_id", "at": "time"}, strict=False)
        kept = kept.rename({"label": "clicked"}, strict=False)
        if parquet:
            kept.write_parquet(part / "part-0.parquet")
        else:
            kept.write_csv(part / "part-0.csv")
    return folder / "log"


def hive(*keys: str, **options: str | bool) -> Callable[[pl.DataFrame, Path], Path]:
    return lambda frame, folder: parts(frame, folder, *keys, **options)  # type: ignore[arg-type]


def by_label(frame: pl.DataFrame, folder: Path) -> Path:
    return parts(frame.rename({"label": "clicked"}), folder, "clicked")


def labelled(row: Row) -> Row:
    """BigQuery's way with a map: a list of keys and values."""
    pairs = [{"key": name, "value": str(row[name])} for name in ("device", "price")]
    return {name: value for name, value in plain(row).items() if name not in ("device", "price")} | {"labels": pairs}


def analytics(row: Row) -> Row:
    """GA4's export: parameters whose values have a field for each type."""
    pairs = [
        {"key": "device", "value": {"string_value": row["device"], "double_value": None}},
        {"key": "price", "value": {"string_value": None, "double_value": row["price"]}},
    ]
    return {name: value for name, value in plain(row).items() if name not in ("device", "price")} | {
        "event_params": pairs
    }


def nested(row: Row) -> Row:
    return {
        "time": row["at"],
        "clicked": row["label"],
        "user": {"id": row["user"], "agent": {"device": row["device"]}},
        "ad": {"id": row["item"], "price": row["price"]},
    }


NESTED = {"user_agent_device": "context categorical", "ad_price": "item numeric"}


def requests() -> pl.DataFrame:
    """The world with five impressions a request: they share user, time and device, so ios is drawn by request."""
    frame = world()
    first = pl.int_range(pl.len()) // 5 * 5
    return frame.with_columns(pl.col("user", "at").gather(first)).with_columns(rank=pl.int_range(pl.len()) % 5 + 1)


def exploded(frame: pl.DataFrame, folder: Path) -> Path:
    """A request a line, with a list of the ads shown."""
    rows = []
    for _, group in frame.group_by("at", "user", maintain_order=True):
        ads = [
            {"ad_id": one["item"], "price": one["price"], "device": one["device"], "clicked": one["label"]}
            for one in group.iter_rows(named=True)
        ]
        rows.append(json.dumps({"user_id": group["user"][0], "time": group["at"][0], "impressions": ads}))
    path = folder / "log.jsonl"
    rows.insert(7, json.dumps({"user_id": "u1", "time": 1_714_550_400, "impressions": []}))  # nothing was shown
    path.write_text("\n".join(rows))
    return path


def avro(frame: pl.DataFrame, folder: Path) -> Path:
    frame.rename({"user": "user_id", "item": "item_id", "at": "time", "label": "clicked"}).write_avro(
        folder / "log.avro"
    )
    return folder / "log.avro"


def structs(frame: pl.DataFrame, folder: Path) -> Path:
    frame.select(
        pl.struct(id="user", agent=pl.struct("device")).alias("user"),
        pl.struct("price", id="item").alias("ad"),
        pl.col("label").alias("clicked"),
        pl.from_epoch("at").alias("time"),
    ).write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def mind(frame: pl.DataFrame, folder: Path) -> Path:
    """MIND's behaviours: no header; the ads of a request and their clicks in one cell."""
    cells = [
        f"{number}\t{group['user'][0]}\t5/1/2024 8:{number % 60:02}:00 AM\tN1 N2\t"
        + " ".join(f"{item}-{label}" for item, label in group.select("item", "label").iter_rows())
        for number, (_, group) in enumerate(frame.group_by("at", "user", maintain_order=True))
    ]
    (folder / "behaviors.tsv").write_text("\n".join(cells) + "\n")
    return folder / "behaviors.tsv"


def headless(frame: pl.DataFrame, folder: Path) -> Path:
    path = text(frame, folder)
    path.write_text(path.read_text().partition("\n")[2])
    return path


def doubled(frame: pl.DataFrame, folder: Path) -> Path:
    path = text(frame.with_columns(other=pl.col("price") * 2), folder)
    path.write_text(path.read_text().replace("other", "price", 1))
    return path


def short_row(frame: pl.DataFrame, folder: Path) -> Path:
    path = text(frame, folder)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:700], rows[700].rpartition(",")[0] + ",1,2,3", *rows[701:]]) + "\n")
    return path


def padded(frame: pl.DataFrame, folder: Path) -> Path:
    path = text(frame, folder)
    path.write_text(path.read_text().replace(",", " , "))
    return path


def zipped(frame: pl.DataFrame, folder: Path) -> Path:
    path = text(frame, folder, separator=";", encoding="latin-1", price=comma)
    packed = folder / "log.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


COUNTRY = partial(cities, "DE", "AT", "CH")
FILES = (
    OddLog("hive-date", "folders date=2024-05-01", hive("date", drop="at"), by_day),
    OddLog(
        "hive-two-keys",
        "folders site=DE/date=2024-05-01 of Parquet",
        hive("site", "date", parquet=True),
        COUNTRY,
        SITE,
    ),
    OddLog("hive-label", "folders clicked=0 and clicked=1", by_label),
    OddLog(
        "hive-null",
        "a folder site=__HIVE_DEFAULT_PARTITION__",
        hive("site"),
        lambda: COUNTRY().with_columns(pl.when(pl.col("site") != "CH").then("site")),
        SITE,
    ),
    OddLog("packed-json", "log.json.gz, a row a line", lines(plain, "log.json.gz")),
    OddLog("json-array", "one array in log.json", lines(plain, "log.json")),
    OddLog("avro", "Avro", avro),
    OddLog("packed-latin-1", "Latin-1 in log.csv.gz", zipped, partial(cities, "Zürich", "Köln", "Görlitz"), SITE),
    OddLog("excel-line", "sep=; as the first line", csv(";", before="sep=;\n", price=comma)),
    OddLog(
        "preface",
        "two lines above the header",
        csv(before="# export of 2024-06-01\n# all sites\n"),
        refused="export",
    ),
    OddLog("headless", "no header", headless, refused="header"),
    OddLog("total", "a row of totals in the end", csv(after="Total,,,412,,\n"), refused="412 in row 1501"),
    OddLog(
        "line-breaks",
        "separators and line breaks in quotes",
        csv(";", price=comma),
        partial(cities, "one\ntwo", "three; four", 'the "best"', "five"),
        SITE,
    ),
    OddLog("two-of-a-name", "two columns of one name", doubled, refused="price"),
    OddLog("ragged", "a row with two cells more", short_row, refused="row 700"),
    OddLog("padded", "spaces around every cell", padded),
    OddLog("mind", "the ads of a request in one cell, no header", mind, requests, refused="header"),
)
NESTINGS = (
    OddLog(
        "bigquery-labels",
        "labels: [{key, value}]",
        lines(labelled),
        sides={"labels_device": "context categorical", "labels_price": "item numeric"},
    ),
    OddLog(
        "ga4-params",
        "event_params: [{key, value: {string_value, …}}]",
        lines(analytics),
        sides={"event_params_device": "context categorical", "event_params_price": "item numeric"},
    ),
    OddLog("nested-json", "user: {id, agent: {device}}, ad: {id, price}", lines(nested), sides=NESTED),
    OddLog("nested-parquet", "the same as structs in Parquet", structs, sides=NESTED),
    OddLog("nested-packed", "the same in log.ndjson.gz", lines(nested, "log.ndjson.gz"), sides=NESTED),
    OddLog(
        "list-of-ads",
        "a request a row: impressions: [{ad_id, clicked, …}]",
        exploded,
        requests,
        {"impressions_device": "context categorical", "impressions_price": "item numeric"},
    ),
)
