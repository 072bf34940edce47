"""Data model of a dashboard: rows of panels, each with its queries.

Knows neither Grafana nor Prometheus.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Unit = Literal["s", "bytes", "percentunit", "reqps", "cps", "short", "cores", "dateTimeFromNow"]


@dataclass(frozen=True)
class Query:
    """PromQL expression, and the legend of its results; `{{label}}` is a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel. `text`: what it shows and how to read it; `limit`: threshold line."""

    title: str
    text: str
    unit: Unit
    queries: tuple[Query, ...]
    is_stacked: bool = False
    is_number: bool = False
    """Whether it shows the latest value instead of a curve."""
    limit: float | None = None
    may_be_empty: str = ""
    """Why it may have no data in a healthy service; empty if it must have data."""


@dataclass(frozen=True)
class Row:
    """Titled group of panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """One dashboard. `name`: its file name, and its UID in Grafana."""

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, from top to bottom."""
        for row in self.rows:
            yield from row.panels


def lines(title: str, text: str, unit: Unit, *queries: tuple[str, str], limit: float | None = None) -> Panel:
    """Return a panel of lines over time."""
    return Panel(title, text, unit, tuple(Query(*one) for one in queries), limit=limit)


def stack(title: str, text: str, unit: Unit, *queries: tuple[str, str]) -> Panel:
    """Return a panel of parts of a whole over time, stacked."""
    return Panel(title, text, unit, tuple(Query(*one) for one in queries), is_stacked=True)


def number(title: str, text: str, unit: Unit, *queries: tuple[str, str]) -> Panel:
    """Return a panel of the latest values."""
    return Panel(title, text, unit, tuple(Query(*one) for one in queries), is_number=True)
