"""Logs as people have them, and the dataset that `msd data init` makes of one."""

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import polars as pl

from msd.dataset.check import DatasetReport
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.log.draft import Draft
from msd.dataset.log.roles import RoleName
from msd.dataset.log.scaffold import SourceFiles, init_dataset

START = 1_714_550_400


def log(users: int = 12, each: int = 20) -> pl.DataFrame:
    """A log as it comes: odd names, milliseconds, words for clicks, an item's columns beside every event."""
    rows = []
    for number in range(users * each):
        user, item = number % users, (number * 7) % 16
        rows.append(
            {
                "Visitor ID": f"v{user}",
                "adId": item,
                "Time": (START + number * 60) * 1000,
                "Clicked?": "yes" if (number * 11) % 7 == 0 else "no",
                "Headline": f"Offer number {item} of the day" if item else None,
                "Price": round(3.5 + item * 1.25, 2),
                "tags": "|".join(["new", "sale", "last"][: item % 3 + 1]),
                "device": ["ios", "android", "tv"][(number // users * 2 + user) % 3],
                "pos": (number // users + user) % 4 + 1,
                "home town": ["Leeds", "York", "Bath"][user % 3],
                "revenue": number * 0.5,
            }
        )
    return pl.DataFrame(rows)


def reviews(rows: int = 1_500) -> pl.DataFrame:
    """Reviews as Amazon's: a rating and what buyers wrote afterwards, of books that are seldom reviewed twice."""
    draws = random.Random(1)
    words = "nice good bad hate great product works fine broken cheap solid fast slow heavy light sturdy".split()
    return pl.DataFrame(
        {
            "reviewerID": f"A{draws.randrange(60)}",
            "asin": f"B{draws.randrange(900):05}",
            "reviewText": " ".join(draws.choices(words, k=25)),
            "summary": " ".join(draws.choices(words, k=4)),
            "overall": (stars := draws.randint(1, 5)),
            "verified": draws.random() < 0.8,
            "unixReviewTime": START + number * 3_600,
            "liked": int(stars >= 4),
        }
        for number in range(rows)
    )


def exchange(rows: int = 2_000) -> pl.DataFrame:
    """Impressions of an exchange, as Avazu's: hours as YYMMDDHH, unique IDs of 19 digits, hashes, unknown users."""
    draws, frame = random.Random(2), []
    for number in range(rows):
        ad, at = draws.randrange(40), datetime.fromtimestamp(START + number * 240, UTC)
        frame.append(
            {
                "id": draws.randrange(10**18, 9 * 10**18),
                "click": int(draws.random() < (0.5 if ad % 3 == 0 else 0.1)),
                "hour": int(at.strftime("%y%m%d%H")),
                "C1": draws.choice((1002, 1005)),
                "banner_pos": draws.randrange(2),
                "site_id": f"{draws.randrange(50):08x}",
                "app_id": f"{draws.randrange(30):08x}",
                "device_id": "a99f214a" if draws.random() < 0.5 else f"{draws.randrange(90):08x}",
                "device_ip": f"{draws.randrange(2**31):08x}",
                "C14": 15_000 + ad,
                "C17": 1_700 + ad // 3,
                "C20": -1,
            }
        )
    return pl.DataFrame(frame)


def outcomes(rows: int = 2_000) -> pl.DataFrame:
    """Impressions with what came of them beside what was known before."""
    draws, frame = random.Random(3), []
    for number in range(rows):
        ad = draws.randrange(25)
        clicked = draws.random() < (0.4 if ad % 3 == 0 else 0.1)
        price, bought = round(draws.random(), 2), clicked and draws.random() < 0.3
        frame.append(
            {"user_id": f"u{number % 40}", "ad_id": f"a{ad}", "ts": START + number * 60, "clicked": int(clicked)}
            | {"device": draws.choice(("ios", "web")), "site": f"s{draws.randrange(9)}"}
            | {"conv_7d": int(bought), "viewed_50pct": int(draws.random() < 0.2 + 0.5 * clicked)}
            | {"win_price": price, "payprice": price * 0.9, "cost": price / 1_000}
            | {"install": int(clicked and draws.random() < 0.3), "umsatz": 9.5 if bought else 0.0}
            | {"x1": int(bought), "x2": "|".join(["seen", "left"][: 1 + clicked]), "x3": draws.random() + clicked}
            | {"x4": int(not clicked and draws.random() < 0.3)}
        )
    return pl.DataFrame(frame)


def event_log(rows: int = 2_000) -> pl.DataFrame:
    """Rows of impressions, of clicks and of conversions, which share the ID of their request."""
    draws, frame = random.Random(4), list[dict[str, object]]()
    for number in range(rows):
        ad, at = draws.randrange(25), START + number * 60
        row = {"request_id": f"r{number}", "user_id": f"u{number % 40}", "ad_id": f"a{ad}"}
        frame.append(row | {"ts": at, "event": "impression", "device": draws.choice(("ios", "web"))})
        if draws.random() < (0.5 if ad % 3 == 0 else 0.1):
            frame.append(row | {"ts": at + 5, "event": "click"})
            if draws.random() < 0.3:
                frame.append(row | {"ts": at + 900, "event": "conversion", "value": 3})
        if number % 9 == 0:
            frame.append(row | {"ts": at + 1, "event": "video_start"})
    return pl.DataFrame(frame, infer_schema_length=None)


def write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)
    return path


def init(folder: Path, frame: pl.DataFrame, ending: str = ".csv", **options: Any) -> tuple[Draft, DatasetReport]:  # noqa: ANN401
    """The draft of one log and the report on its dataset, which has no problem. `options`: columns by role, and those
    of `init_dataset`."""
    folder.mkdir(exist_ok=True)
    chosen: dict[RoleName, str] = {role: options.pop(role) for role in get_args(RoleName) if role in options}
    draft, report = init_dataset(SourceFiles(write(frame, folder / f"log{ending}")), folder / "out", chosen, **options)
    assert report.problems == ()
    return draft, report


def make(folder: Path, frame: pl.DataFrame, ending: str = ".csv", **options: Any) -> Dataset:  # noqa: ANN401
    """A dataset of one log."""
    init(folder, frame, ending, **options)
    return load_dataset(folder / "out")


def left_out(draft: Draft) -> dict[str, str]:
    """The reasons of the columns that are left out."""
    return {column.source: column.reason for column in draft.left_out}
