"""The pages that people read, cut into prose and blocks of code."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_FENCED = re.compile(r"^(?P<fence>```+)(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)\s*$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block and the line that it begins on."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages, page by page."""
    found = []
    for page in PAGES:
        whole = page.read_text("utf-8")
        for fenced in _FENCED.finditer(whole):
            if fenced["language"] in languages:
                line = whole.count("\n", 0, fenced.start()) + 1
                found.append(Block(page, line, fenced["language"], fenced["text"]))
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", page.read_text("utf-8"))
