"""A dashboard as it is written down here: rows of panels, each with the questions that it asks.

Knows neither Grafana nor Prometheus.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Unit = Literal["s", "bytes", "percentunit", "reqps", "cps", "short", "cores", "dateTimeFromNow"]


@dataclass(frozen=True)
class Query:
    """PromQL, and how what it finds is called; `{{label}}` is a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """`text` says what is shown and what to make of it; `limit` is a line that is not to be crossed."""

    title: str
    text: str
    unit: Unit
    queries: tuple[Query, ...]
    is_stacked: bool = False
    is_number: bool = False
    """Whether the latest value is what matters."""
    limit: float | None = None
    may_be_empty: str = ""
    """Why it may show nothing of a service that is well."""


@dataclass(frozen=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """`name` is its file's, and its id in Grafana."""

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> Iterator[Panel]:
        """All of them, from above."""
        for row in self.rows:
            yield from row.panels


def lines(title: str, text: str, unit: Unit, *queries: tuple[str, str], limit: float | None = None) -> Panel:
    """A panel of lines over time."""
    return Panel(title, text, unit, tuple(Query(*one) for one in queries), limit=limit)


def stack(title: str, text: str, unit: Unit, *queries: tuple[str, str]) -> Panel:
    """Parts of a whole over time, one upon the other."""
    return Panel(title, text, unit, tuple(Query(*one) for one in queries), is_stacked=True)


def number(title: str, text: str, unit: Unit, *queries: tuple[str, str]) -> Panel:
    """The latest values."""
    return Panel(title, text, unit, tuple(Query(*one) for one in queries), is_number=True)
