"""Queries of dashboards, recording rules and alerts: each is valid and reads metrics that the service has."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from lab.observe.panels import DASHBOARDS, MAY_BE_EMPTY, filled, read_panels
from service.telemetry.metrics import Metrics

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DASHBOARDS.parent / "rules.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
PANELS = read_panels()
QUERIES = {f"{panel.board}: {panel.title}": [expr for expr, _ in panel.queries] for panel in PANELS}
QUERIES |= {rule.get("record") or rule["alert"]: [rule["expr"]] for rule in RULES}
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
SAMPLES = {f"{found.name}{ending}" for found in Metrics().families.collect() for ending in ENDINGS[found.type]}


def metrics_in(query: str) -> set[str]:
    """Return the names of the service's metrics in a query. Raises ValueError if it is invalid."""
    return set(re.findall(r"\b(?:job(?:_\w+)?:)?(?:msd|process)_[\w:]*", str(promql_parser.parse(filled(query)))))


def family_of(sample: str) -> str:
    return re.sub(r"_(total|bucket|sum|count)$", "", sample)


@pytest.mark.parametrize("name", QUERIES)
def test_query_is_valid_and_reads_known_metrics(name: str) -> None:
    for query in QUERIES[name]:
        assert metrics_in(query) or "ALERTS" in query
        assert metrics_in(query) <= SAMPLES | RECORDED


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {family_of(name) for panel in PANELS for expr, _ in panel.queries for name in metrics_in(expr)}

    # Other panels, or an alert and the runbook, cover these.
    unseen = {"process_virtual_memory_bytes", "msd_corrections_stale"}
    unseen |= {f"msd_correction_{what}" for what in ("shift", "slope", "timestamp_seconds")}
    assert {family_of(name) for name in SAMPLES} - shown == unseen


@pytest.mark.parametrize("path", sorted(DASHBOARDS.iterdir()), ids=lambda path: path.stem)
def test_dashboard_is_complete(path: Path) -> None:
    board = json.loads(path.read_text("utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]

    assert path.suffix == ".json"
    assert path.stat().st_size < 900_000  # a ConfigMap holds a megabyte
    assert board["uid"] == path.stem
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "namespace", "job"}
    assert len(set(places)) == len(places) > 5
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert all(panel["description"].endswith(".") for panel in panels)


def test_panels_that_may_be_empty_exist() -> None:
    assert MAY_BE_EMPTY.keys() <= {panel.title for panel in PANELS}
