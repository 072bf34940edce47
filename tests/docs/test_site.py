"""The documentation's site can be read without a network: all that its pages load lies beside them."""

import json
from pathlib import Path

import pytest

from tests.docs.site import build_site, loaded_by


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


def test_pages_and_styles_load_only_what_lies_beside_them(site: Path) -> None:
    # 404.html is for a web server, and begins at its root.
    files = [file for file in site.rglob("*") if file.suffix in (".html", ".css") and file.name != "404.html"]
    loaded = [(file, address) for file in files for address in loaded_by(file) if not address.startswith("data:")]

    assert len(files) > 40
    assert len(loaded) > 3 * len(files)
    for file, address in loaded:
        found = (file.parent / address).resolve()
        assert found.is_file(), f"{file}: {address}"
        assert found.is_relative_to(site), f"{file}: {address}"


def test_search_index_is_a_script_too(site: Path) -> None:
    """A page that was opened as a file may load scripts and no data."""
    index = (site / "search" / "search_index.js").read_text("utf-8")

    assert index.startswith("var __index = {")
    assert "own-data.html" in index


def test_search_ranks_guides_before_decisions(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text("utf-8")
    found = json.loads(index[index.index("{") : index.rindex("}") + 1])["docs"]
    boosts = {one["location"].split("/")[0]: one.get("boost", 1.0) for one in found}

    assert boosts["decisions"] < boosts["own-data.html"] == 1.0
