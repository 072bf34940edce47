"""Odd logs are read rightly, or asked about, or refused by name: none is read wrongly in silence.

`pytest -qs tests/dataset/test_odd_logs.py` prints each log, and what became of it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from msd.contract.errors import MsdError
from msd.dataset.load import Dataset, load_dataset
from msd.dataset.log.guess import Side
from msd.dataset.log.roles import RoleName
from msd.dataset.log.scaffold import SourceFiles, init_dataset
from tests.dataset.odd.columns import IDS, MEANINGS, ROLES, TIMES
from tests.dataset.odd.kept_back import KEPT_BACK
from tests.dataset.odd.layouts import FILES, NESTINGS
from tests.dataset.odd.notations import ENCODINGS, LABELS, MISSING, NUMBERS
from tests.dataset.odd.world import IOS, PRICE, OddLog, planted

LOGS = (*NUMBERS, *LABELS, *MISSING, *ENCODINGS, *FILES, *NESTINGS, *MEANINGS, *TIMES, *IDS, *ROLES, *KEPT_BACK)
BY_SIDES = {"user": "user_id", "item": "item_id"}
CHOSEN = ("user", "item", "time", "label")


def read(log: OddLog, folder: Path, options: Mapping[str, Any]) -> Dataset:
    path = log.write(log.frame(), folder)
    chosen: dict[RoleName, str] = {role: options[role] for role in CHOSEN if role in options}  # type: ignore[misc]
    others = {name: value for name, value in options.items() if name not in CHOSEN}
    _, report = init_dataset(SourceFiles(path), folder / "out", chosen, **others)
    assert report.problems == ()
    return load_dataset(folder / "out")


def flat(dataset: Dataset) -> pl.DataFrame:
    """The dataset's events with the features of their items and users."""
    frame = dataset.events
    tables: dict[Side, pl.DataFrame] = {"item": dataset.items, "user": dataset.users}
    for side, other in tables.items():
        names = [feature.name for feature in dataset.config.side(side)]
        if names:
            frame = frame.join(other.select(BY_SIDES[side], *names), on=BY_SIDES[side], how="left")
    return frame


def wrong(log: OddLog, dataset: Dataset) -> list[str]:
    """What a dataset has that the truth has not, in words."""
    sides = {one.name: f"{one.side} {one.kind}" for one in dataset.config.features}
    found = [f"{name} is {sides.get(name)}, not {side}" for name, side in log.sides.items() if sides.get(name) != side]
    served = [one.name for one in dataset.config.features if one.serving_value is not None]
    if served != [log.position] * (log.position is not None):
        found.append(f"positions are {served}, not {log.position}")
    if found:
        return found
    frame = flat(dataset).select(user="user_id", item="item_id", at="at", label="label", **{n: n for n in log.sides})
    truth = log.frame()
    for name in frame.columns:
        own = name if name in truth.columns else name.rpartition("_")[2]
        pairs = zip(keys(frame, name), keys(truth, own), strict=False)
        unlike = next(((read, true) for read, true in pairs if not same(read[-1], true[-1])), None)
        if frame.height != truth.height or unlike:
            found.append(f"{frame.height} of {truth.height} rows; {name}: (read, true) = {unlike}")
    return found


def keys(frame: pl.DataFrame, name: str) -> list[tuple[Any, ...]]:
    rows = frame.select("at", pl.col("item").fill_null(""), "label", pl.col(name).alias("value")).rows()
    return sorted(rows, key=str)


def same(read: object, true: object) -> bool:
    if isinstance(read, float) and isinstance(true, int | float):
        return math.isclose(read, true, rel_tol=1e-6)
    return read == true or (isinstance(read, str) and isinstance(true, int) and read == str(true))


def judge(log: OddLog, folder: Path) -> tuple[str, list[str], Dataset | None]:
    """What becomes of a log: `read`, `asks for --OPTION` or `refused`; what is wrong; the dataset in the end."""
    try:
        dataset = read(log, folder, log.options)
        return "read", wrong(log, dataset), dataset
    except MsdError as error:
        said = str(error)
    if log.refused:
        return "refused", [] if log.refused in said else [f"{log.refused} is not named: {said}"], None
    if not log.asks or f"--{log.asks}" not in said:
        return f"refused: {said}", ["it should be read"], None
    other = folder / "answered"
    other.mkdir()
    dataset = read(log, other, {**log.options, log.asks.replace("-", "_"): log.answer})
    return f"asks for --{log.asks}", wrong(log, dataset), dataset


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_odd_log_is_read_asked_or_refused(log: OddLog, tmp_path: Path) -> None:
    outcome, faults, dataset = judge(log, tmp_path)
    print(f"\n{log.name:28} {log.odd:62} {outcome}", end="")  # noqa: T201
    assert faults == []
    assert outcome == log.expected
    if dataset is None:
        return
    frame = flat(dataset)
    by_name = {name.rpartition("_")[2]: name for name in log.sides}
    ios, price = planted(frame.select("label", device=by_name["device"], price=by_name["price"]))
    assert ios == pytest.approx(IOS, rel=0.2)
    assert price == pytest.approx(PRICE, rel=0.2)
