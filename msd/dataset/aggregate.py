"""Aggregated rows → at most two weighted events per row: one without a click and one with."""

import polars as pl

from msd.dataset.column import read_labels, read_whole_numbers
from msd.dataset.config import EventsConfig
from msd.dataset.conversions import with_conversions
from msd.dataset.table import Table

IMPRESSIONS = "impressions"
"""The events' column with the number of impressions per event; without it each counts one."""


def outcome_columns(where: EventsConfig) -> list[str]:
    """Return the outcome columns of the events file."""
    columns = [where.impressions, where.clicks if where.clicks else where.label, where.disliked]
    columns += [where.conversion, where.converted_at, where.conversion_value]
    return [column for column in columns if column is not None]


def with_labels(events: pl.DataFrame, table: Table, where: EventsConfig) -> pl.DataFrame:
    """Return the events [n] with a column `label`; those without a label are dropped.

    If rows have counts, a row of n impressions with k clicks becomes an event with label 1 and `impressions` k, and one
    with label 0 and n − k. Events of 0 impressions are left out.
    """
    if where.impressions is None:
        labelled = events.with_columns(label=read_labels(table, where.label))
        return with_conversions(labelled, table, where).drop_nulls("label")
    shown = read_whole_numbers(table, where.impressions)
    if where.clicks is None:
        clicked = read_labels(table, where.label).cast(pl.Int64) * shown
    else:
        clicked = read_whole_numbers(table, where.clicks)
    usable = counts_fit(table, where.clicks, shown, clicked)
    counted = events.with_columns(shown=shown, clicked=clicked).filter(usable)
    outcomes = ((0, pl.col("shown") - pl.col("clicked")), (1, pl.col("clicked")))
    return (
        pl.concat(
            counted.with_columns(count.cast(pl.Float64).alias(IMPRESSIONS), pl.lit(label, pl.Int8).alias("label"))
            for label, count in outcomes
        )
        .filter(pl.col(IMPRESSIONS) > 0)
        .drop("shown", "clicked")
    )


def counts_fit(table: Table, clicks: str | None, shown: pl.Series, clicked: pl.Series | None) -> pl.Series:
    """Return whether each row's [n] counts are usable. Notes rows with more clicks than impressions."""
    usable = shown.is_not_null()
    if clicked is not None:
        usable &= (clicked <= shown).fill_null(False)
        if clicks is not None:
            table.flag(clicks, clicked > shown, "is more than the impressions of its row")
    return usable


def is_counted(events: pl.DataFrame | pl.LazyFrame) -> bool:
    """Return whether events are aggregated."""
    return IMPRESSIONS in events.collect_schema()


def shown_of(events: pl.DataFrame | pl.LazyFrame) -> pl.Expr:
    """Return the expression of each event's impressions (f64), which broadcasts beside another column."""
    return pl.col(IMPRESSIONS) if is_counted(events) else pl.lit(1.0).alias(IMPRESSIONS)


def impressions_of(events: pl.DataFrame) -> pl.Series:
    """Return the number of impressions of each event [n] (f64)."""
    return events.select("label", shown_of(events))[IMPRESSIONS]


def count_clicks(events: pl.DataFrame | pl.LazyFrame) -> tuple[int, int]:
    """Return the impressions and clicks of some events."""
    told = events.lazy().select("label", shown_of(events))
    sums = told.select(pl.col(IMPRESSIONS).sum(), clicks=(pl.col(IMPRESSIONS) * pl.col("label")).sum())
    shown, clicks = sums.collect(engine="streaming").row(0)
    return int(shown), int(clicks)
