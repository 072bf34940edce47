"""Panels of the Grafana dashboards, and the data that Prometheus returns for their queries in a live run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from lab.observe.prometheus import Prometheus, Series

DASHBOARDS = Path(__file__).parents[2] / "helm/msd-ctr/files/dashboards"
MAY_BE_EMPTY = {
    "Alerts": "a healthy service has no pending or firing alerts",
    "BidRequests by user": "requests may come to /v1/score alone",
    "Requests that explore": "exploration is off by default",
}
"""Panels without data in a healthy service, and why."""
RATE_INTERVAL = "10s"


class Panel(NamedTuple):
    """A panel: expressions with their legends."""

    board: str
    title: str
    queries: tuple[tuple[str, str], ...]

    def curves(self, prometheus: Prometheus, start: float, end: float) -> list[Series]:
        """Return the data of all queries in a time range, each with its `legend`."""
        return [
            series._replace(legend=_legend(legend, series.labels))
            for expr, legend in self.queries
            for series in prometheus.series(filled(expr), start, end)
            if series.points
        ]


def read_panels(folder: Path = DASHBOARDS) -> list[Panel]:
    """Return the panels of all dashboards, from top to bottom."""
    return [
        _panel(path.stem, document)
        for path in sorted(folder.glob("*.json"))
        for document in json.loads(path.read_text("utf-8"))["panels"]
        if document["type"] != "row"
    ]


def filled(expr: str) -> str:
    """Return a query with values for Grafana's variables."""
    for name, value in (("$__rate_interval", RATE_INTERVAL), ("$namespace", ".*"), ("$job", ".*")):
        expr = expr.replace(name, value)
    return expr


def _panel(board: str, document: dict[str, Any]) -> Panel:
    return Panel(
        board,
        document["title"],
        tuple((target["expr"], target["legendFormat"]) for target in document["targets"]),
    )


def _legend(legend: str, labels: dict[str, str]) -> str:
    for label, value in labels.items():
        legend = legend.replace(f"{{{{{label}}}}}", value)
    return legend
