"""What panels and rules return in a live run: each query through Prometheus, with Grafana's variables filled in."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lab.observe.live import Watched
from lab.observe.prometheus import Series
from msd.dashboards.board import Board, Panel

_RATE_INTERVAL = "10s"
_OTHERS = ("$namespace", "$job")


class PanelCurve(NamedTuple):
    """A line of a panel, by its legend."""

    name: str
    points: Sequence[tuple[float, float]]


class Shown(NamedTuple):
    """A panel and its data; or a recording rule, by name."""

    where: str
    title: str
    curves: tuple[PanelCurve, ...]
    panel: Panel | None = None

    @property
    def points(self) -> int:
        """The number of points of all curves."""
        return sum(len(curve.points) for curve in self.curves)

    @property
    def highest(self) -> float:
        """The largest value, 0 without any: a constant 0 counts as data."""
        return max((value for curve in self.curves for _, value in curve.points), default=0.0)

    @property
    def is_wrongly_empty(self) -> bool:
        """Whether it returns nothing, and should."""
        return not self.points and not (self.panel and self.panel.may_be_empty)


def panels_shown(board: Board, run: Watched) -> list[Shown]:
    """Return all panels of a dashboard."""
    return [Shown(board.name, panel.title, _curves(panel, run), panel) for panel in board.panels]


def rules_shown(run: Watched) -> list[Shown]:
    """Return all recording rules."""
    names = [rule["name"] for rule in run.prometheus.rules() if rule["type"] == "recording"]
    return [
        Shown("recording rules", name, tuple(PanelCurve(str(one.labels), one.points) for one in _told(name, run)))
        for name in names
    ]


def sick_rules(run: Watched) -> list[str]:
    """Return rules and alerts that Prometheus cannot evaluate, and why."""
    return [f"{rule['name']}: {rule['lastError']}" for rule in run.prometheus.rules() if rule["health"] != "ok"]


def alerts_seen(run: Watched) -> list[str]:
    """Return alerts that were pending or firing."""
    return sorted({f"{one.labels['alertname']} {one.labels['alertstate']}" for one in _told("ALERTS", run)})


def _curves(panel: Panel, run: Watched) -> tuple[PanelCurve, ...]:
    return tuple(
        PanelCurve(_named(query.legend, one.labels), one.points)
        for query in panel.queries
        for one in _told(_filled(query.expr), run)
    )


def _told(expr: str, run: Watched) -> list[Series]:
    return [one for one in run.prometheus.series(expr, run.start, run.end) if one.points]


def _filled(expr: str) -> str:
    filled = expr.replace("$__rate_interval", _RATE_INTERVAL)
    for name in _OTHERS:
        filled = filled.replace(name, ".*")
    return filled


def _named(legend: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend
