"""Findings about a deployment: level, fact, reason and remedy; as text and as JSON."""

from collections import Counter
from collections.abc import Sequence
from functools import partialmethod
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

Level = Literal["ok", "note", "warning", "error"]
_STYLES: dict[Level, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
LEVELS = tuple(_STYLES)


class Finding(BaseModel):
    """One finding. If all is well it has neither reason nor remedy."""

    model_config = ConfigDict(frozen=True)

    level: Level
    about: str
    what: str
    why: str = ""
    mend: str = ""


class Group:
    """Findings about one subject.

    A note may be intended; a warning works now, but not always; an error does not work, or grants access to the wrong
    clients.
    """

    def __init__(self, about: str) -> None:
        self._about = about
        self.findings: list[Finding] = []

    def add(self, level: Level, what: str, why: str = "", mend: str = "") -> None:
        """Add a finding; if all is well it has neither reason nor remedy."""
        self.findings.append(Finding(level=level, about=self._about, what=what, why=why, mend=mend))

    ok = partialmethod(add, "ok")
    note = partialmethod(add, "note")
    warning = partialmethod(add, "warning")
    error = partialmethod(add, "error")


def print_table(console: Console, findings: Sequence[Finding]) -> None:
    """Print the findings, worst first, with reason and remedy."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda finding: -LEVELS.index(finding.level)):
        text = Text(finding.what)
        if finding.why:
            text.append(f"\n{finding.why}", style="dim")
        if finding.mend:
            text.append(f"\n→ {finding.mend}")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.about, text)
    console.print(table)
    counts = Counter(finding.level for finding in findings)
    console.print(", ".join(f"{counts[level]} {level}" for level in reversed(LEVELS)), highlight=False)
