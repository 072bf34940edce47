"""Odd logs that were drawn after the reader was written, of which it read or asked 17 of 20 rightly at first."""

from decimal import Decimal
from functools import partial
from pathlib import Path

import polars as pl

from tests.dataset.odd.columns import called, context, stamp, user_column
from tests.dataset.odd.layouts import hive, lines, plain
from tests.dataset.odd.notations import BUDGET, CENTS, cities, comma, csv, lettered, tenths, whole_and_budget
from tests.dataset.odd.world import SIDES, OddLog, german, world


def decimals(frame: pl.DataFrame, folder: Path) -> Path:
    prices = pl.Series("price", [Decimal(f"{value:.3f}") for value in frame["price"]], pl.Decimal(12, 3))
    names = {"user": "user_id", "item": "item_id", "at": "time", "label": "clicked"}
    frame.with_columns(prices).rename(names).write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def typed(frame: pl.DataFrame, folder: Path) -> Path:
    frame.select(
        pl.col("user").cast(pl.Categorical).alias("user_id"),
        pl.col("item").cast(pl.Categorical).alias("item_id"),
        pl.from_epoch("at").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin").alias("time"),
        pl.col("label").cast(pl.Boolean).alias("clicked"),
        pl.col("device").cast(pl.Categorical),
        pl.col("price").cast(pl.Float32).cast(pl.Float64).round(3),
    ).write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def sparse(row: dict[str, object]) -> dict[str, object]:
    """A map of labels that has a key only where it has a value."""
    flat = plain(row)
    device, price = flat.pop("device"), flat.pop("price")
    return flat | {"meta": {"price": price} | ({"device": device} if device == "ios" else {"device": device, "x": 1})}


def millis(row: dict[str, object]) -> dict[str, object]:
    flat = plain(row)
    return flat | {"time": str(flat["time"] * 1000)}


def by_hour() -> pl.DataFrame:
    frame = world()
    return frame.with_columns(hour=pl.from_epoch("at").dt.strftime("%H"))


def by_item(name: str) -> pl.DataFrame:
    frame = world()
    return frame.with_columns((pl.col("item").str.slice(1).cast(pl.Int64) * 37 % 900 + 1).alias(name))


FRENCH = ("été à la plage", "déjà vu", "garçon", "forêt", "Noël", "cœur", "hôtel", "leçon")
POLISH = ("Łódź", "Kraków", "Gdańsk", "Wrocław", "Poznań", "Żary", "Świdnica", "Chełm")
KEPT_BACK = (
    OddLog(
        "whole-thousands",
        "semicolons; 1.000 is 1000 beside 12,5",
        csv(";", price=partial(german, pattern=",.0f"), budget=tenths),
        lambda: whole_and_budget().with_columns(pl.col("price") * 1000),
        BUDGET,
    ),
    OddLog("currency-code", "1.50 USD", csv(price=lambda value: f"{value:.2f} USD"), CENTS),
    OddLog(
        "not-clicked", "labels clicked and not clicked", csv(label=lambda value: "clicked" if value else "not clicked")
    ),
    OddLog("float-labels", "labels 1.0 and 0.0", csv(label=lambda value: f"{value}.0")),
    OddLog("texts-of-milliseconds", "JSON with times as text of milliseconds", lines(millis)),
    OddLog("hive-hour", "folders hour=08", hive("hour"), by_hour, context("hour")),
    OddLog(
        "sparse-map",
        "a map with other keys in each row",
        lines(sparse),
        sides={"meta_device": "context categorical", "meta_price": "item numeric"},
    ),
    lettered("polish", "cp1250: Łódź", csv(encoding="cp1250"), *POLISH, asks="encoding", answer="cp1250"),
    lettered("french-letters", "cp1252: été", csv(encoding="cp1252"), *FRENCH, asks="encoding", answer="cp1252"),
    lettered(
        "utf-16-be",
        "UTF-16, the other byte order, with a BOM",
        csv("\t", encoding="utf-16-be", before="\ufeff"),
        *("Zürich", "Köln"),
    ),
    OddLog("decimal-type", "Parquet's decimals", decimals),
    OddLog("typed", "Parquet with categories, truth values, times of a zone", typed),
    OddLog("bars", "bars; 1.218,50", csv("|", price=partial(german, pattern=",.2f")), CENTS),
    OddLog("sales-rank", "rank: of an item", csv(), partial(by_item, "rank"), SIDES | {"rank": "item numeric"}),
    OddLog(
        "banner-position",
        "banner_position: top, side",
        csv(),
        lambda: cities("top", "top", "side").rename({"site": "banner_position"}),
        context("banner_position"),
        position="banner_position",
    ),
    user_column("city", "city: one a user", "categorical", lambda user: ("Leeds", "York", "Bath")[user % 3]),
    called("size", "size: 300x250", lambda row: ("300x250", "728x90", "160x600")[row % 3]),
    OddLog(
        "quoted-thousands",
        'quoted "1,218" and no other sign',
        csv(price=lambda value: f"{value:,.0f}"),
        lambda: world(0, 1_000.0).filter(pl.col("price") < 1_000_000),
        asks="decimal",
        answer=".",
    ),
    OddLog(
        "day-first",
        "31.05.24 20:16",
        csv(";", at=stamp("%d.%m.%y %H:%M"), price=comma),
        lambda: world().with_columns(pl.col("at") // 60 * 60 + 30 * 86_400),
    ),
    lettered("countries", "country: DE, NA (Namibia)", csv(), "DE", "NA", "FR"),
)
