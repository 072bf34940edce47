"""Split of events into profile window, train, valid and test, by cuts of each user's time or by a given column. Never
by labels."""

from collections.abc import Iterable
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.dataset.aggregate import impressions_of
from msd.dataset.config import CONFIG_FILE, PART_NAMES, DatasetConfig
from msd.dataset.load import id_order
from msd.dataset.problem import DatasetError, Problem


class Part(IntEnum):
    """Part of an event. Window rows are training rows too; user knowledge must not be used for them."""

    WINDOW = 0
    TRAIN = 1
    VALID = 2
    TEST = 3


def split_events(events: pl.DataFrame, config: DatasetConfig) -> NDArray[np.int8]:
    """Return the Part [n] of each event; events [n] may be in any order.

    A user's m impressions, ordered by time and then by item ID, are cut at floor(profile_window · m), floor(train · m)
    and floor(valid · m). Impressions that tie in both, such as all of one aggregated row, go where the middle one
    falls, so that labels never move an event. If [split] names a column, it decides instead. Raises DatasetError naming
    every part without events; only a given window may be empty.
    """
    if config.split.column is not None:
        numbers = {name: Part[name.upper()].value for name in PART_NAMES}
        given: NDArray[np.int8] = events["part"].replace_strict(numbers, return_dtype=pl.Int8).to_numpy(writable=True)
        if empty := _empty(given, (Part.TRAIN, Part.VALID, Part.TEST)):
            problem = Problem(
                config.events.file, f"{empty}; only the window may go without", column=config.split.column
            )
            raise DatasetError(Path(config.name), [problem])
        return given
    user, count, place = _places(events)
    cuts = (config.split.profile_window, config.split.train, config.split.valid)
    parts = sum((place >= _share(cut, count)).astype(np.int8) for cut in cuts)
    parts = np.asarray(parts, np.int8)
    if empty := _empty(parts, Part):
        message = f"{empty}: {events.height} events of {len(np.unique(user))} users are too few for these cuts"
        raise DatasetError(Path(config.name), [Problem(CONFIG_FILE, message, column="split")])
    return parts


def is_early(events: pl.DataFrame, share: float) -> NDArray[np.bool_]:
    """Return whether each event [n] is among the first `share` of its user's, cut as in `split_events`."""
    _, count, place = _places(events)
    return place < _share(share, count)


def _empty(parts: NDArray[np.int8], needed: Iterable[Part]) -> str:
    """Return the parts without events, in words; empty if there are none."""
    names = [part.name.lower() for part in needed if not (parts == part).any()]
    return f"no event falls into the part{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""


def _places(events: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, per event, its user's number, the user's impressions, and the event's index among them in time."""
    ordered = (
        events.select("user_id", "item_id", "at", "label", impressions_of(events).cast(pl.Int64))
        .with_row_index("row")
        .sort("user_id", "at", *id_order("item_id"), "label", maintain_order=True)
        .select(
            "row",
            user=pl.col("user_id").rank("dense"),
            count=pl.col("impressions").sum().over("user_id"),
            end=pl.col("impressions").cum_sum().over("user_id"),
            shown="impressions",
            tie=pl.struct("user_id", "at", "item_id").rle_id(),
        )
        .with_columns(place=((pl.col("end") - pl.col("shown")).min() + pl.col("end").max() - 1).over("tie") // 2)
        .sort("row")
    )
    user, count, place = (ordered[name].cast(pl.Int64).to_numpy() for name in ("user", "count", "place"))
    return user, count, place


def _share(cut: float, count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return floor(cut · count) of the decimal cut: in binary, .29 · 100 is less than 29."""
    exact = Fraction(str(cut)).limit_denominator(10**6)
    return count * exact.numerator // exact.denominator
