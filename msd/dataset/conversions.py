"""Conversions of clicks, their delays, and how many are still to come."""

from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msd.dataset.column import read_labels, read_numeric, read_times
from msd.dataset.config import EventsConfig
from msd.dataset.table import Table

CONVERSION, CONVERTED_AT, CONVERSION_VALUE = "conversion", "converted_at", "conversion_value"
_HOUR, _DAY = 3_600, 86_400
_TOLD = {"1 h": _HOUR, "1 d": _DAY, "7 d": 7 * _DAY}
_NEW_S = 7 * _DAY
_FEW = 100
# Fewest conversions that a delay is estimated by; and the share of times that count as past.
_AT_RISK, _NOT_AHEAD = 30, 0.999
_LEAST = 1e-6
Floats = NDArray[np.float64]


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
    if where.conversion_value is not None:
        worth = read_numeric(table, where.conversion_value)
        table.flag(where.conversion_value, worth < 0, "is below 0")
        table.flag(where.conversion_value, worth.is_not_null() & (converted == 0), "is the value of no conversion")
        events = events.with_columns(worth.alias(CONVERSION_VALUE))
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


class Arrival(NamedTuple):
    """How conversions arrive: of those that ever come, the `shares` [n] that have come within `seconds` [n], ascending;
    and the end of the log (unix s).

    The nonparametric maximum likelihood of delays that are seen only if they are shorter than the event's age
    (Lynden-Bell 1971; Woodroofe 1985). It needs no conversion rate, which may change. Conversions that are later than
    the log is long are not expected.
    """

    seconds: Floats
    shares: Floats
    end: float

    @classmethod
    def of(cls, events: pl.DataFrame) -> Self | None:
        """Return that of events with conversion times; None of too few."""
        if CONVERTED_AT not in events.columns or events[CONVERTED_AT].count() < _FEW:
            return None
        known = events.select("at", CONVERTED_AT).drop_nulls()
        at, converted_at = (known[name].to_numpy().astype(np.float64) for name in ("at", CONVERTED_AT))
        # A conversion's time is its sender's: a few of the future would make all that waits old.
        end = max(float(events.select(pl.col("at").max()).item()), float(np.quantile(converted_at, _NOT_AHEAD)))
        delays = np.sort(converted_at - at)
        ages = np.sort(np.maximum(end, converted_at) - at)
        seconds, counts = np.unique(delays, return_counts=True)
        at_risk = np.searchsorted(delays, seconds, "right") - np.searchsorted(ages, seconds)
        told = seconds <= seconds[at_risk >= _AT_RISK].max(initial=0.0)
        earlier = np.where(told, 1 - counts / np.maximum(at_risk, 1), 1.0)
        shares = np.append(np.cumprod(earlier[:0:-1])[::-1], 1.0)
        return cls(seconds, shares, end)

    def share(self, at: Floats) -> Floats:
        """Return the share [n] that has come of the conversions of events at these times [n] (unix s)."""
        place = np.searchsorted(self.seconds, self.end - at, "right")
        share: Floats = np.maximum(np.append(0.0, self.shares)[place], _LEAST)
        return share

    def within(self, share: float) -> float:
        """Return the seconds within which this share comes."""
        return float(self.seconds[np.searchsorted(self.shares, share)])


class Delays(NamedTuple):
    """Delays of conversions: their number, and the share later than each of `_TOLD`; the clicks of the log's last week,
    and the expected number of their conversions still to come, None if the log is too short to tell."""

    conversions: int
    later: dict[str, float]
    new_clicks: int
    missing: float | None

    @classmethod
    def of(cls, events: pl.DataFrame) -> Self:
        """Return the delays of events with conversion times. Clicks older than a week give the conversion rate."""
        clicks = events.filter(pl.col("label") == 1)
        at, delays = clicks["at"].to_numpy(), (clicks[CONVERTED_AT] - clicks["at"]).drop_nulls().to_numpy()
        arrival, missing = Arrival.of(events), None
        new = at > (arrival.end if arrival else np.inf) - _NEW_S
        if arrival is not None and not new.all():
            rate = float(clicks.filter(pl.Series(~new))[CONVERSION].sum()) / float(arrival.share(at[~new]).sum())
            missing = rate * float((1 - arrival.share(at[new])).sum())
        shares = {name: float((delays > limit).mean()) if len(delays) else 0.0 for name, limit in _TOLD.items()}
        return cls(len(delays), shares, int(new.sum()), missing)


def say_delays(events: pl.DataFrame) -> list[str]:
    """Return a line on delayed conversions; nothing for events without conversion times."""
    if CONVERTED_AT not in events.columns or not events[CONVERTED_AT].count():
        return []
    found = Delays.of(events)
    told = ", ".join(f"{share:.1%} later than {limit}" for limit, share in found.later.items())
    line = f"delayed feedback: of {found.conversions:,} conversions with a time {told} after the event"
    if found.missing is None:
        return [f"{line}; the log is too short to tell how many are still to come"]
    line += f"; of the {found.new_clicks:,} clicks of its last 7 days, some {found.missing:,.0f} still convert"
    return [f"{line}, which training allows for"]
