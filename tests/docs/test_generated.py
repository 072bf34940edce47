"""Pages have what code says, and pages for one reader stay short."""

import re
from pathlib import Path

import pytest

from msd.dataset.config import DatasetConfig, EventsConfig, FeatureConfig
from service.settings import Settings
from tests.docs import generated
from tests.docs.mistakes import MISTAKES, Mistake, message_of, row_of
from tests.docs.pages import PAGES, ROOT, prose

CURRENT = "run `make docs-files`"
MAX_WORDS = 2_000
CODE = ("loadtest", "model_export", "msd", "native", "onnx_factorise", "operations", "service")
LONGER = {
    "docs/benchmarks.md": "tables of figures",
    "docs/performance.md": "tables of figures",
    "CHANGELOG.md": "a record",
}
"""Pages that may be longer, with the reason; decisions are records too."""


def test_settings_have_a_meaning() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_advice_is_about_metrics() -> None:
    """Each family has its advice, but for what only says of what the service is made."""
    advice = re.findall(r"^\| `(\w+)` \| \S", (ROOT / "docs/metrics.md").read_text("utf-8"), re.M)
    names = {family.name for family in generated.metric_families()}

    assert len(advice) == len({*advice}) > 50
    assert names - {*advice} == {"msd_native_info"}
    assert {*advice} <= names


def test_dataset_page_has_every_key() -> None:
    page = generated.DATASET.read_text("utf-8")
    keys = set(re.findall(r"^\| `(\w+)` \|", page, re.M))

    assert page == generated.dataset_page(), CURRENT
    for section in (DatasetConfig, EventsConfig, FeatureConfig):
        undescribed = {name for name, field in section.model_fields.items() if not field.description}
        assert undescribed <= {"events", "items", "users", "split", "history", "ids", "counts", "openrtb", "features"}
        assert section.model_fields.keys() - undescribed <= keys


CASES = [mistake for group in MISTAKES.values() for mistake in group]


@pytest.mark.parametrize("mistake", CASES, ids=[mistake.name for mistake in CASES])
def test_mistake_has_its_message(mistake: Mistake, tmp_path: Path) -> None:
    message, code = message_of(mistake, tmp_path)

    assert code in (1, 2)
    assert 20 < len(message) < 500
    assert row_of(mistake, message) in generated.MISTAKES.read_text("utf-8"), CURRENT


def test_no_other_mistakes_are_kept() -> None:
    page = generated.MISTAKES.read_text("utf-8")

    assert page.count("\n- **") == len(CASES) >= 40


def pages() -> list[str]:
    """All pages but those that may be longer."""
    names = [str(page.relative_to(ROOT)) for page in PAGES]
    return [name for name in names if name not in LONGER and "decisions/" not in name]


@pytest.mark.parametrize("name", pages())
def test_page_is_short(name: str) -> None:
    assert len(prose(ROOT / name).split()) <= MAX_WORDS


def test_readme_is_shorter() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")

    assert len(readme.split()) < 900
    assert re.match(r"# msd-ctr\n\n\*\*.+\*\*\n\n!\[", readme), "a picture comes first"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))

    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if (ROOT / "docs") in page.parents}


def test_glossary_has_the_words_of_code_and_pages() -> None:
    terms = re.findall(r"^\| (?!term|-)([\w -]+?) \|", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.M)
    code = "\n".join(path.read_text("utf-8") for folder in CODE for path in sorted((ROOT / folder).rglob("*.py")))
    text = "\n".join(prose(page) for page in PAGES if page.name != "glossary.md")

    def occurs(term: str, where: str) -> bool:
        return re.search(re.sub(r"[ -]", "[ _-]", term), where, re.IGNORECASE) is not None

    assert 20 < len(terms) <= 40
    assert not [term for term in terms if not occurs(term, code) or not occurs(term, text)]
