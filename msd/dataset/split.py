"""Split of events into profile window, train, valid and test, by cuts of the log's time, of each user's, or by a given
column. Never by labels."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.dataset.aggregate import shown_of
from msd.dataset.column import is_anonymous
from msd.dataset.config import CONFIG_FILE, PART_NAMES, DatasetConfig
from msd.dataset.mapped import BLOCK
from msd.dataset.problem import DatasetError, Problem


class Part(IntEnum):
    """Part of an event. Window rows are training rows too; user knowledge must not be used for them."""

    WINDOW = 0
    TRAIN = 1
    VALID = 2
    TEST = 3


def split_events(events: pl.DataFrame, config: DatasetConfig) -> NDArray[np.int8]:
    """Return the Part [n] of each event; events [n] must be sorted (`sort_events`).

    The log's m impressions, or each user's (`[split] by`), ordered by time, user and item ID, are cut at
    floor(profile_window · m), floor(train · m) and floor(valid · m). Impressions that tie in all three, such as all of
    one aggregated row, go where the middle one falls, so that labels never move an event. Where users are cut, an
    anonymous request's impressions are in one part, drawn by its ID. If [split] names a column, it decides instead.
    Raises DatasetError naming every part without events; only a given window may be empty.
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
    cuts = config.split.profile_window, config.split.train, config.split.valid
    parts = cut_events(events, cuts, by_user=config.split.by == "user")
    if empty := _empty(parts, Part):
        users = events["user_id"].n_unique()
        message = (
            f"{empty}: {events.height} events of {users} users are too few for these cuts: bring more, or move them"
        )
        raise DatasetError(Path(config.name), [Problem(CONFIG_FILE, message, column="split")])
    return parts


def _empty(parts: NDArray[np.int8], needed: Iterable[Part]) -> str:
    """Return the parts without events, in words; empty if there are none."""
    names = [part.name.lower() for part in needed if not (parts == part).any()]
    return f"no event falls into the part{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""


def cut_events(events: pl.DataFrame, cuts: Sequence[float], *, by_user: bool) -> NDArray[np.int8]:
    """Return at or after how many of the cuts, shares of the impressions in time, of its user or of the log, each
    sorted event [n] lies, as `split_events` says."""
    shown, group = (
        shown_of(events).cast(pl.Int64).alias("shown"),
        pl.col("user_id") if by_user else pl.repeat("", pl.len()),
    )
    totals = events.lazy().select(group.alias("of"), shown).group_by("of").agg(count=pl.col("shown").sum())
    groups = totals.collect(engine="streaming").with_row_index("group")
    before, found = np.zeros(groups.height, np.int64), [np.zeros(0, np.int8)]
    for block in _blocks(events):
        told = (
            block.select("user_id", "item_id", "at", shown, group.alias("of"))
            .join(groups, on="of", how="left", maintain_order="left")
            .with_columns(
                end=pl.col("shown").cum_sum().over("group"), tie=pl.struct("user_id", "at", "item_id").rle_id()
            )
            .with_columns(place=((pl.col("end") - pl.col("shown")).min() + pl.col("end").max() - 1).over("tie") // 2)
        )
        user, shown_n, count, place = (told[name].to_numpy() for name in ("group", "shown", "count", "place"))
        places = before[user] + place
        is_drawn = told.select(is_anonymous()).to_series().to_numpy() if by_user else np.zeros(0, np.bool_)
        anonymous = np.flatnonzero(is_drawn)
        if len(anonymous):
            count, drawn = count.copy(), map(_drawn, told["user_id"][anonymous])
            count[anonymous], places[anonymous] = 2**32, np.fromiter(drawn, np.int64, len(anonymous))
        found.append(np.sum([places >= _share(cut, count) for cut in cuts], 0, np.int8))
        np.add.at(before, user, shown_n)
    return np.concatenate(found)


def _drawn(user_id: str) -> int:
    """Return a number below 2³² that looks random, the same for the same ID."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=4).digest(), "big")


def _blocks(events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield sorted events in blocks, each with all that tie."""
    keys, start = events.select("user_id", "item_id", "at"), 0
    while start < events.height:
        end = min(start + BLOCK, events.height)
        while end < events.height and keys.row(end) == keys.row(end - 1):
            end += 1
        yield events[start:end]
        start = end


def _share(cut: float, count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return floor(cut · count) of the decimal cut: in binary, .29 · 100 is less than 29."""
    exact = Fraction(str(cut)).limit_denominator(10**6)
    return count * exact.numerator // exact.denominator
