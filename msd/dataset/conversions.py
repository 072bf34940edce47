"""Conversions of clicks, and an estimate from their delays of those still to come."""

from typing import NamedTuple, Self

import numpy as np
import polars as pl

from msd.dataset.column import read_labels, read_times
from msd.dataset.config import EventsConfig
from msd.dataset.table import Table

CONVERSION, CONVERTED_AT = "conversion", "converted_at"
_HOUR, _DAY = 3_600, 86_400
_TOLD = {"1 h": _HOUR, "1 d": _DAY, "7 d": 7 * _DAY}
_NEW_S = 7 * _DAY
_FEW = 100


def has_conversions(events: pl.DataFrame) -> bool:
    """Return whether the events say which clicks converted."""
    return CONVERSION in events.columns


def with_conversions(events: pl.DataFrame, table: Table, where: EventsConfig) -> pl.DataFrame:
    """Return the events [n], which have a label, with the columns that `where` names; note contradictions with the
    click."""
    if where.conversion is None:
        return events
    converted = read_labels(table, where.conversion, "conversion")
    table.flag(where.conversion, (converted == 1) & (events["label"] == 0), "is 1 without a click")
    events = events.with_columns(converted.alias(CONVERSION))
    if where.converted_at is None:
        return events
    at = read_times(table, where.converted_at, optional=True)
    table.flag(where.converted_at, at.is_not_null() & (converted == 0), "is the time of no conversion")
    table.flag(where.converted_at, at < events["at"], "is before the event")
    return events.with_columns(at.alias(CONVERTED_AT))


def count_conversions(events: pl.DataFrame) -> dict[str, int | float | str | None]:
    """Return the number of conversions and their rate per click; empty if the events do not record conversions."""
    if not has_conversions(events):
        return {}
    clicks, conversions = int(events["label"].sum()), int(events[CONVERSION].sum())
    return {"conversions": conversions, "conversion_rate": round(conversions / clicks, 6) if clicks else None}


def say_conversions(events: pl.DataFrame, valid: pl.Series) -> list[str]:
    """Return lines on the conversions that a model learns from, on those that calibrate it (`valid` [n] rows), and on
    delays."""
    if not has_conversions(events):
        return []
    clicks, own = events.filter(pl.col("label") == 1), events.filter(valid & (pl.col("label") == 1))
    converted = int(own[CONVERSION].sum())
    line = f"conversions: {clicks[CONVERSION].sum():,} of {clicks.height:,} clicks; pcvr is calibrated on the"
    line += f" {converted:,} of {own.height:,} valid clicks"
    few = min(converted, own.height - converted) < _FEW
    return [line + (", which are few: trust its ranking more than its level" if few else ""), *say_delays(events)]


class Delays(NamedTuple):
    """Delays of conversions: their number, and the share later than each of `_TOLD`; the clicks of the log's last week,
    and the expected number of their conversions still to come, None if the log is too short to tell."""

    conversions: int
    later: dict[str, float]
    new_clicks: int
    missing: float | None

    @classmethod
    def of(cls, events: pl.DataFrame) -> Self:
        """Return the delays of events with conversion times.

        Clicks older than a week give the conversion rate and the delays. A newer click is expected to still bring the
        conversions that come later than its age.
        """
        clicks = events.filter(pl.col("label") == 1)
        delays = (clicks[CONVERTED_AT] - clicks["at"]).to_numpy().astype(np.float64)
        known = delays[np.isfinite(delays)]
        latest = events.select(pl.max_horizontal(pl.col("at").max(), pl.col(CONVERTED_AT).max())).item()
        age = latest - clicks["at"].to_numpy()
        new, old = age < _NEW_S, age >= _NEW_S
        settled = np.sort(delays[old & np.isfinite(delays)])
        missing = None
        if len(settled):
            later = 1 - np.searchsorted(settled, age[new], "right") / len(settled)
            missing = float(len(settled) / old.sum() * later.sum())
        shares = {name: float((known > limit).mean()) if len(known) else 0.0 for name, limit in _TOLD.items()}
        return cls(len(known), shares, int(new.sum()), missing)


def say_delays(events: pl.DataFrame) -> list[str]:
    """Return a line on delayed conversions; nothing for events without conversion times."""
    if CONVERTED_AT not in events.columns or not events[CONVERTED_AT].count():
        return []
    found = Delays.of(events)
    told = ", ".join(f"{share:.1%} later than {limit}" for limit, share in found.later.items())
    line = f"delayed feedback: of {found.conversions:,} conversions with a time {told} after the event"
    if found.missing is None:
        return [f"{line}; the log is too short to tell how many are still to come"]
    return [f"{line}; of the {found.new_clicks:,} clicks of its last 7 days, some {found.missing:,.0f} still convert"]
