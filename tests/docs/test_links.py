"""Every link between pages leads somewhere, down to the heading."""

import re
from pathlib import Path

import pytest

from tests.docs.generated import on_page_markdown
from tests.docs.pages import PAGES, ROOT, prose

_CITED = re.compile(r"\[?[Dd]ecisions?[\s#]+(?P<number>\d+)(?:\]\((?P<target>[^)\s]+)\))?")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What headings are called in links: as on a code host and, if they are generated, on the site alone."""
    headings = re.findall(r"^#+ (.+?)\s*$", on_page_markdown(prose(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    found = []
    for target in _LINK.findall(prose(page).replace("\n", "")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What happens when\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#what-happens-when) [b](none.md) [c](other.md#no-heading)\n[d\n](#here) [e](https://x.org/none)\n"
    )

    assert broken(page) == ["none.md", "other.md#no-heading", "#here"]


def test_cited_decisions_exist() -> None:
    decisions = {int(page.name[:4]): page.name for page in (ROOT / "docs/decisions").glob("*.md")}
    folders = "msd service native model_export onnx_factorise operations loadtest msd_client lab tests".split()
    sources = [file for folder in folders for file in (ROOT / folder).rglob("*.*") if file.suffix in (".py", ".hpp")]
    for file in [*sources, *PAGES]:
        text = re.sub(r"^It holds .*?\n\n", "", file.read_text("utf-8"), flags=re.M | re.S)
        for cited in _CITED.finditer(text):
            name = decisions.get(int(cited["number"]))
            linked = (cited["target"] or f"decisions/{name}").partition("#")[0]
            assert linked.rpartition("/")[2] == name, f"{file}: {cited[0]}"
