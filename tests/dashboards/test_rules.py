"""Alerts: each is tested and has a section in the runbook.

`make rules` runs promtool, which checks that Prometheus accepts the rules, and which alert fires when.
"""

import re
from pathlib import Path

import pytest
import yaml

from lab.observe.panels import DASHBOARDS
from tests.dashboards.test_queries import RULES

ROOT = Path(__file__).parents[2]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RUNBOOK = (ROOT / "docs/runbook.md").read_text("utf-8")


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_severity_description_and_runbook(name: str) -> None:
    notes = ALERTS[name]["annotations"]

    assert ALERTS[name]["labels"]["severity"] in ("critical", "warning")
    assert notes["summary"]
    assert notes["description"].endswith(".")
    # The page on the documentation's site; the chart inserts the site's own address.
    assert notes["runbook_url"] == f"https://docs.example.com/msd-ctr/runbook.html#{name.lower()}"


def test_runbook_has_a_section_for_each_alert() -> None:
    assert re.findall(r"^## (Msd.+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


def test_each_alert_fires_in_a_tested_situation() -> None:
    tests = yaml.safe_load((DASHBOARDS.parent / "rules_test.yaml").read_text("utf-8"))["tests"]
    fired = [re.findall(r"alertname=\"?(\w+)", str(test["promql_expr_test"])) for test in tests]

    assert {name for names in fired for name in names} == set(ALERTS)
