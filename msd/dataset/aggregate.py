"""Rows that stand for many impressions → one row an impression, so that nothing downstream need know of counts."""

import numpy as np
import polars as pl

from msd.dataset.column import read_labels, read_whole_numbers
from msd.dataset.config import EventsConfig
from msd.dataset.table import Table

MAX_IMPRESSIONS = 2_000_000


def outcome_columns(where: EventsConfig) -> list[str]:
    """The columns of the events file that say what came of an impression."""
    columns = [where.impressions, where.clicks if where.clicks else where.label, where.disliked]
    return [column for column in columns if column is not None]


def with_labels(events: pl.DataFrame, table: Table, where: EventsConfig) -> pl.DataFrame:
    """The events [n] with a column `label`, those without one dropped; of n impressions with k clicks, k rows have 1.

    All rows that come of one have its time and its context. Above 2,000,000 impressions in all it notes a problem, and
    no row is left.
    """
    if where.impressions is None:
        return events.with_columns(label=read_labels(table, where.label)).drop_nulls("label")
    shown = read_whole_numbers(table, where.impressions)
    if where.clicks is None:
        clicked = read_labels(table, where.label).cast(pl.Int64) * shown
    else:
        clicked = read_whole_numbers(table, where.clicks)
    usable = counts_fit(table, where.impressions, where.clicks, shown, clicked)
    counted = events.with_columns(shown=shown, clicked=clicked).filter(usable)
    clicks, rest = counted["clicked"], counted["shown"] - counted["clicked"]
    events = counted.drop("shown", "clicked")
    return pl.concat([_repeated(events, rest, 0), _repeated(events, clicks, 1)])


def counts_fit(
    table: Table,
    impressions: str,
    clicks: str | None,
    shown: pl.Series,
    clicked: pl.Series | None,
    most: int = MAX_IMPRESSIONS,
) -> pl.Series:
    """[n] whether a row's counts can be used. Notes clicks beyond the impressions, and impressions beyond the bound."""
    usable = shown.is_not_null()
    if clicked is not None:
        usable &= (clicked <= shown).fill_null(False)
        if clicks is not None:
            table.flag(clicks, clicked > shown, "is more than the impressions of its row")
    total = int(shown.sum())
    if total > most:
        message = f"holds {total:,} impressions in all; each becomes a row, and {most:,} are the most. "
        message += f"`msd data init --sample {most}` draws as many at random, of all rows, so that the click rate stays"
        table.flag_column(impressions, message)
        usable &= False
    return usable


def _repeated(events: pl.DataFrame, times: pl.Series, label: int) -> pl.DataFrame:
    rows = np.repeat(np.arange(events.height), times.to_numpy())
    return events.select(pl.all().gather(rows)).with_columns(label=pl.lit(label, pl.Int8))
