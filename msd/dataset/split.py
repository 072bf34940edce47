"""Each user's events in time, cut into profile window, train, valid and test. Not by labels."""

from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.dataset.config import CONFIG_FILE, DatasetConfig
from msd.dataset.load import id_order
from msd.dataset.problem import DatasetError, Problem


class Part(IntEnum):
    """Where an event belongs. Window rows are training rows too; user knowledge may not be used for them."""

    WINDOW = 0
    TRAIN = 1
    VALID = 2
    TEST = 3


def split_events(events: pl.DataFrame, config: DatasetConfig) -> NDArray[np.int8]:
    """[n] events in any order → [n] Part of each.

    A user's m events, ordered by time and then by item id, are cut at floor(profile_window · m), floor(train · m) and
    floor(valid · m). Events that tie in both, such as the impressions of one aggregated row, go where the middle
    one of them falls, so that no label moves an event.
    Raises DatasetError naming every part that gets no event of the whole dataset.
    """
    user, count, place = _places(events)
    cuts = (config.split.profile_window, config.split.train, config.split.valid)
    parts = sum((place >= _share(cut, count)).astype(np.int8) for cut in cuts)
    parts = np.asarray(parts, np.int8)
    empty = [part.name.lower() for part in Part if not (parts == part).any()]
    if empty:
        message = f"no event falls into the part{'s' if len(empty) > 1 else ''} {', '.join(empty)}: "
        message += f"{events.height} events of {len(np.unique(user))} users are too few for these cuts"
        raise DatasetError(Path(config.name), [Problem(CONFIG_FILE, message, column="split")])
    return parts


def _places(events: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Per event: a number for its user, how many events the user has, and the event's place among them in time."""
    ordered = (
        events.select("user_id", "item_id", "at", "label")
        .with_row_index("row")
        .sort("user_id", "at", *id_order("item_id"), "label", maintain_order=True)
        .select(
            "row",
            user=pl.col("user_id").rank("dense"),
            count=pl.len().over("user_id"),
            place=pl.int_range(pl.len()).over("user_id"),
            tie=pl.struct("user_id", "at", "item_id").rle_id(),
        )
        .with_columns((pl.col("place").min() + pl.col("place").max()).over("tie") // 2)
        .sort("row")
    )
    user, count, place = (ordered[name].cast(pl.Int64).to_numpy() for name in ("user", "count", "place"))
    return user, count, place


def _share(cut: float, count: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(cut · count) of the cut as written: in binary, .29 · 100 is less than 29."""
    exact = Fraction(str(cut)).limit_denominator(10**6)
    return count * exact.numerator // exact.denominator
