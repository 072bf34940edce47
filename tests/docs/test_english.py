"""Texts that users meet are plain: no turn of phrase that has to be read twice.

Covers metric help, alerts, chart values, settings, command help, error messages, pages, and docstrings and comments of
all packages. A new pattern is one line below, with what to write instead.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from service.telemetry.metrics import HELP
from tests.chart.values import values
from tests.docs.generated import cli_lines
from tests.docs.pages import PAGES, ROOT, prose

PATTERNS = {
    r"\bof which\b": "split the sentence",
    r"\bthat which\b|\bwhat of it\b|\bof late\b": "name the thing; 'recent'",
    r"(?<!there )\bis (?-i:none)\b|(?<!there )\bis no (?!longer|better|faster|larger)\w+": "'is not a …', 'invalid …'",
    r"\bhas not (?:the|a)\b|\bhave not (?:the|a)\b": "'lacks'",
    r"\bso many\b|\bso long\b|\bas many as\b": "give the number, or 'at most N'",
    r"\bsees? to\b|\bhas it done\b|\bin its turn\b|\bfirst-rate\b": "say what it does",
    r"\bit looks like\b": "'expected …'",
    r"\b(?:is|are) wanted\b|\bwas asked for\b|\bwere asked for\b": "'expected', 'requested'",
    r"\b(?:cannot|can|to) be had\b": "'unavailable'",
    r"\bgoes? before\b": "'overrides'",
    r"\bgoes on\b": "'continues', 'resumes'",
    r"\bunder way\b": "'in progress'",
    r"\b(?:whoever|nobody|somebody|anybody)\b": "name the role: client, operator, reader",
    r"\bwho (?:asks|comes|leaves|waits)\b": "name the role, or the request",
    r"\btells? of\b": "'describes', 'reports'",
    r"\bwhat (?:came|comes|became|becomes) of\b": "'outcome', 'result'",
    r"\bat hand\b": "'current', 'in progress'",
    r"\bby heart\b": "'memorised'",
    r"\bof one's own\b": "'custom', 'your own'",
    r"\bthe one by the other\b": "'ratio'",
    r"\btaken on\b|\btakes on\b": "'accepted', 'admitted'",
    r"\bheld (?:to|against)\b": "'compared with', 'checked against'",
}
"""Pattern, and what to write instead."""
PACKAGES = ("loadtest", "model_export", "msd", "msd_client", "native", "onnx_factorise", "operations", "service")
MAX_COLUMNS = 120
_DOCSTRING_OR_COMMENT = re.compile(r'^ *r?""".*?"""|(?:^ *#[^\n]*\n)+|  # [^\n]*', re.M | re.S)


def offences(texts: Iterator[tuple[str, str]]) -> list[str]:
    """Where a text has one of the patterns."""
    return [
        f"{place}: {found[0]!r} in {text!r}: {advice}"
        for place, text in texts
        for pattern, advice in PATTERNS.items()
        if (found := re.search(pattern, text, re.IGNORECASE))
    ]


def metric_help() -> Iterator[tuple[str, str]]:
    yield from HELP.items()


def alerts() -> Iterator[tuple[str, str]]:
    rules = yaml.safe_load((ROOT / "helm/msd-ctr/files/rules.yaml").read_text("utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            for name in ("summary", "description"):
                if "alert" in rule:
                    yield f"{rule['alert']} {name}", rule["annotations"][name]


def chart_values() -> Iterator[tuple[str, str]]:
    yield from ((value.path, value.comment) for value in values())


def setting_meanings() -> Iterator[tuple[str, str]]:
    yield from ((name, field.description or "") for name, field in Settings.model_fields.items())


def command_help() -> Iterator[tuple[str, str]]:
    for number, line in enumerate(cli_lines(), 1):
        yield f"the page of commands:{number}", line


def error_messages() -> Iterator[tuple[str, str]]:
    """Texts in `raise` statements."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from raised(path)


RECORDS = {"CHANGELOG.md", "benchmarks.md", "performance.md"}


def pages() -> Iterator[tuple[str, str]]:
    """Paragraphs and rows of tables, but for records and pages of figures."""
    for page in PAGES:
        if page.name not in RECORDS:
            for paragraph in re.split(r"\n\n|\n\|", prose(page)):
                yield str(page.relative_to(ROOT)), " ".join(paragraph.split())


def raised(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            texts: list[Any] = [part.value for part in ast.walk(node.exc) if isinstance(part, ast.Constant)]
            for text in texts:
                if isinstance(text, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def docstrings_and_comments() -> Iterator[tuple[str, str]]:
    """Docstrings, and comments with adjacent lines joined, found by their places in a line."""
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text("utf-8")
            for found in _DOCSTRING_OR_COMMENT.finditer(source):
                line = source.count("\n", 0, found.start()) + 1
                yield f"{path.relative_to(ROOT)}:{line}", " ".join(re.sub(r"^ *#", "", found[0], flags=re.M).split())


@pytest.mark.parametrize(
    "texts",
    [metric_help, alerts, chart_values, setting_meanings, command_help, error_messages, pages, docstrings_and_comments],
    ids=lambda texts: texts.__name__,
)
def test_texts_are_plain(texts: Any) -> None:  # noqa: ANN401 - one of the functions above
    assert not offences(texts())


def test_metric_help_is_a_sentence() -> None:
    assert not [name for name, text in HELP.items() if not re.fullmatch(r"[A-Z0-9].*\.", text)]


def test_lines_of_pages_are_short() -> None:
    """A table's row and a heading cannot be broken, nor can a link or a name."""
    long = [
        f"{page.relative_to(ROOT)}: {line}"
        for page in PAGES
        if page.name not in {*RECORDS, "README.md", "protocols.md", "teaching.md"}
        for line in prose(page).splitlines()
        if len(line) > MAX_COLUMNS and not re.match(r"\s*(?:\||#|!\[|\[|<|\{)", line)
    ]

    assert not long
