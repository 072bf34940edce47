"""The page of bounds names tests, metrics and settings that there are."""

import re

import pytest

from service.settings import Settings
from tests.docs.generated import metric_families
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/bounds.md").read_text("utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "| threat" not in line]


TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_row_names_its_tests(row: list[str]) -> None:
    threat, bound, _, tests = row
    assert threat
    assert bound
    names = tests.split(", ")
    assert {name.strip("`") for name in names} <= TESTS
    assert len({*names}) == len(names)


def test_metrics_and_settings_exist() -> None:
    assert set(re.findall(r"`(msd_\w+)", PAGE)) <= {family.name for family in metric_families()}
    assert {name.lower() for name in re.findall(r"`MSD_(\w+)`", PAGE)} <= Settings.model_fields.keys()
