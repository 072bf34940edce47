"""Logs whose columns' meaning, times or IDs are odd."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import polars as pl

from tests.dataset.odd.layouts import requests
from tests.dataset.odd.notations import Way, comma, csv, text
from tests.dataset.odd.world import SIDES, OddLog, world


def named(name: str, values: Callable[[int], object], base: Callable[[], pl.DataFrame] = world) -> pl.DataFrame:
    """The world with one more column, by the number of the row."""
    frame = base()
    return frame.with_columns(pl.Series(name, [values(number) for number in range(frame.height)]))


def of_users(name: str, values: Callable[[int], object]) -> pl.DataFrame:
    frame = world()
    return frame.with_columns(pl.Series(name, [values(int(user[1:])) for user in frame["user"]]))


def context(name: str) -> dict[str, str]:
    return SIDES | {name: "context categorical"}


def stamp(pattern: str, zone: timezone = UTC) -> Way:
    return lambda at: datetime.fromtimestamp(at, zone).strftime(pattern)


def mixed(at: int) -> str:
    zone = timezone(timedelta(hours=2 if int(at) % 600 else -5))
    return datetime.fromtimestamp(at, zone).isoformat()


def serial(at: int) -> str:
    """Excel's number of a time: days since 1899-12-30."""
    return comma(round(at / 86_400 + 25_569, 5)).replace(".", "")


def events(frame: pl.DataFrame, folder: Path) -> Path:
    """A row for each impression, and one more for its click, in German."""
    seen = frame.with_columns(Ereignis=pl.lit("Anzeige"), id=pl.format("r{}", pl.int_range(pl.len())))
    clicks = seen.filter(pl.col("label") == 1).with_columns(pl.col("at") + 4, Ereignis=pl.lit("Klick"))
    both = pl.concat([seen, clicks]).sort("at", maintain_order=True).drop("label")
    both.rename({"user": "user_id", "item": "ad_id", "at": "time", "id": "request_id"}).write_csv(folder / "log.csv")
    return folder / "log.csv"


def counted(frame: pl.DataFrame, folder: Path) -> Path:
    """Rows of 1,200 impressions and their clicks, as the label's shares of them."""
    written = frame.select(
        pl.col("user").alias("site"), pl.col("item").alias("ad_id"), pl.col("at").alias("time"), "device", "price"
    ).with_columns(
        price=pl.Series([comma(value) for value in frame["price"]]),
        Impressionen=pl.lit("1.200"),
        Klicks=pl.when(frame["label"] == 1).then(pl.lit("1.200")).otherwise(pl.lit("0")),
    )
    written.write_csv(folder / "log.csv", separator=";")
    return folder / "log.csv"


def identified(way: Callable[[str], str]) -> Callable[[], pl.DataFrame]:
    return lambda: world().with_columns(pl.Series("user", [way(user[1:]) for user in world()["user"]]))


def ranked(name: str) -> Callable[[], pl.DataFrame]:
    return lambda: requests().rename({"rank": name})


def answering(frame: pl.DataFrame, folder: Path) -> Path:
    """A log in which impressions of one request share its ID."""
    return text(frame.with_columns(request_id=pl.format("q{}", pl.int_range(pl.len()) // 5)), folder)


def called(
    name: str, odd: str, values: Callable[[int], object], title: str = "", position: str | None = None
) -> OddLog:
    """A log with a column of the context."""
    return OddLog(title or name, odd, csv(), partial(named, name, values), context(name), position=position)


def user_column(name: str, odd: str, kind: str, values: Callable[[int], object]) -> OddLog:
    """A log with a column that has one value a user."""
    return OddLog(name, odd, csv(), partial(of_users, name, values), SIDES | {name: f"user {kind}"})


MEANINGS = (
    called("slot", "slot: 1 to 6, an ad network's places", lambda row: row * 7 % 6 + 1),
    called("slot_id", "slot_id: 101 to 104", lambda row: 101 + row * 7 % 4),
    called("tagid", "tagid: codes of places", lambda row: 33_120 + row * 7 % 9),
    called("placement", "placement: top, side", lambda row: ("top", "side", "feed")[row * 7 % 3]),
    called("placement", "placement: 1 to 4", lambda row: row * 7 % 4 + 1, "placement-number"),
    called("pos", "pos: a position by its name", lambda row: row * 7 % 4 + 1, position="pos"),
    user_column("plan", "plan: one value a user", "categorical", lambda user: ("free", "gold")[user % 2]),
    user_column("age", "age: a number a user", "numeric", lambda user: 18 + user * 7 % 50),
    OddLog("rank-by-shape", "idx: 1 to 5 in every request", answering, ranked("idx"), context("idx"), position="idx"),
    OddLog(
        "rank-from-zero",
        "idx: 0 to 4 in every request",
        answering,
        lambda: ranked("idx")().with_columns(pl.col("idx") - 1),
        context("idx"),
        position="idx",
    ),
    OddLog(
        "slot-by-shape",
        "slot: 1 to 5 in every request: a place or a position?",
        answering,
        ranked("slot"),
        context("slot"),
        position="slot",
        asks="position",
        answer="slot",
    ),
    OddLog(
        "slot-by-shape-not",
        "the same; it is a place",
        answering,
        ranked("slot"),
        context("slot"),
        asks="position",
        answer="none",
    ),
)
TIMES = (
    OddLog("milliseconds", "times in milliseconds", csv(at=lambda at: at * 1000)),
    OddLog("microseconds", "times in microseconds", csv(at=lambda at: at * 1_000_000)),
    OddLog("german-times", "01.05.2024 08:16:46", csv(";", at=stamp("%d.%m.%Y %H:%M:%S"), price=comma)),
    OddLog(
        "day-or-month",
        "01/05/2024 08:16:46, days up to 6",
        csv(at=stamp("%d/%m/%Y %H:%M:%S")),
        asks="time-format",
        answer="%d/%m/%Y %H:%M:%S",
    ),
    OddLog("bigquery-times", "2024-05-01 08:16:46 UTC", csv(at=stamp("%Y-%m-%d %H:%M:%S UTC"))),
    OddLog("zones", "2024-05-01T08:16:46+02:00 and -05:00", csv(at=mixed)),
    OddLog(
        "am-pm",
        "05/21/2024 8:16:46 PM",
        csv(at=stamp("%m/%d/%Y %I:%M:%S %p")),
        lambda: world().with_columns(pl.col("at") + 20 * 86_400),
    ),
    OddLog("excel-times", "45413,34514", csv(";", at=serial, price=comma), refused="time"),
)
IDS = (
    OddLog("leading-zeros", "users 00123", csv(), identified(lambda user: f"{int(user):05}")),
    OddLog("float-ids", "users 17.0", csv(user=lambda user: f"{user}.0"), identified(lambda user: user)),
    OddLog(
        "long-ids", "users of 19 digits", csv(), identified(lambda user: f"{9_007_199_254_740_993_000 + int(user)}")
    ),
    OddLog(
        "excel-ids",
        "users 1,23457E+15",
        csv(";", user=lambda user: f"{1.2 + int(user[1:]) % 20 / 50:.5f}E+15".replace(".", ","), price=comma),
        refused="user_id",
    ),
)
ROLES = (
    OddLog("event-rows", "rows of Anzeige and Klick", events),
    OddLog("counts", "columns Impressionen and Klicks, 1.200", counted, options={"user": "site"}),
)
