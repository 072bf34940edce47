"""Files that sites read: how to cite the project, and forms for issues; and the extras of pyproject.toml."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yaml"))


def test_citation_has_the_projects_version_and_licence() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["references"][0]["url"] in (ROOT / "README.md").read_text("utf-8")


def test_install_page_has_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    page = (ROOT / "docs" / "install.md").read_text("utf-8")

    assert not [extra for extra in project["optional-dependencies"] if f"`{extra}`" not in page]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_form_asks_for_something(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))

    assert form["name"]
    assert form["description"]
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])
