"""Recording rules and alerts: every query can be read, of families that there are; every alert is tested and explained.

Whether Prometheus takes them, and what fires of what, `promtool` says (`make rules`, `rules_test.yaml`).
"""

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.dashboards.series import FILES, RECORDED, RULES, asked_for, samples_named

ROOT = Path(__file__).parents[2]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("record") or rule["alert"] for rule in RULES])
def test_a_rule_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    asked = asked_for(promql_parser.parse(rule["expr"]))

    assert asked
    assert asked <= samples_named() | RECORDED


def test_what_is_not_there_is_seen() -> None:
    assert asked_for(promql_parser.parse("rate(msd_requests[5m]) > job:msd_slow:ratio_rate5m")) == {
        "msd_requests",
        "job:msd_slow:ratio_rate5m",
    }
    assert "msd_requests" not in samples_named()


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_the_matter_and_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    notes = alert["annotations"]
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.MULTILINE)

    assert alert["labels"]["severity"] in ("critical", "warning")
    assert notes["summary"]
    assert notes["description"].endswith(".")
    # The page as the documentation's site has it; the chart puts the site's own address in.
    assert notes["runbook_url"] == f"https://docs.example.com/msd-ctr/runbook.html#{name.lower()}"
    assert name in headings


def test_the_runbook_knows_no_other_alerts() -> None:
    assert re.findall(r"^## (Msd.+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.MULTILINE) == list(ALERTS)


def scenarios() -> dict[str, set[str]]:
    """The alerts that fire in each scenario of the rules' tests."""
    tests = yaml.safe_load((FILES / "rules_test.yaml").read_text("utf-8"))["tests"]
    return {
        test["name"]: {
            name
            for asked in test["promql_expr_test"]
            for sample in asked["exp_samples"]
            for name in re.findall(r'alertname="(\w+)"', sample["labels"])
        }
        for test in tests
    }


def test_every_alert_fires_in_the_tests_of_the_rules() -> None:
    assert set().union(*scenarios().values()) == set(ALERTS)


def test_the_documentation_says_what_fires_each_alert() -> None:
    page = (ROOT / "docs/observability.md").read_text("utf-8")
    told = {name: scenario for name, scenario in re.findall(r"^\| `(Msd\w+)` \| (.+?) \|", page, re.MULTILINE)}

    assert list(told) == list(ALERTS)
    assert all(name in scenarios()[scenario] for name, scenario in told.items())
