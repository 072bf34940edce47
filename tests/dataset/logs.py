"""A log as an ad server may write it, in any format, and the dataset that `msd data init` makes of it."""

from pathlib import Path

import polars as pl

from msd.dataset.load import Dataset, load_dataset
from msd.dataset.roles import RoleName
from msd.dataset.scaffold import SourceFiles, init_dataset

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


def write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_parquet(path)
    return path


def make(folder: Path, frame: pl.DataFrame, ending: str = ".csv", **options: str) -> Dataset:
    """A dataset of one log, made, checked and loaded."""
    folder.mkdir(exist_ok=True)
    chosen: dict[RoleName, str] = {role: options[role] for role in options}  # type: ignore[misc]
    _, report = init_dataset(SourceFiles(write(frame, folder / f"log{ending}")), folder / "out", chosen)
    assert report.problems == ()
    return load_dataset(folder / "out")
