"""What a look at a deployment found: how bad it is, what it is, why it matters and how to mend it; as people read it,
and as programs do.
"""

import json
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
    """One finding. What is in order needs neither a reason nor mending."""

    model_config = ConfigDict(frozen=True)

    level: Level
    about: str
    what: str
    why: str = ""
    mend: str = ""


class Group:
    """Findings about one thing. A note may be meant; a warning is of what works, and will not always; an error does not
    work, or lets in whom it should not."""

    def __init__(self, about: str) -> None:
        self._about = about
        self.findings: list[Finding] = []

    def add(self, level: Level, what: str, why: str = "", mend: str = "") -> None:
        """One more; what is in order has neither a reason nor a mending."""
        self.findings.append(Finding(level=level, about=self._about, what=what, why=why, mend=mend))

    ok = partialmethod(add, "ok")
    note = partialmethod(add, "note")
    warning = partialmethod(add, "warning")
    error = partialmethod(add, "error")


def print_table(console: Console, findings: Sequence[Finding]) -> None:
    """The worst first, each with its reason and its mending."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda one: -LEVELS.index(one.level)):
        text = Text(finding.what)
        if finding.why:
            text.append(f"\n{finding.why}", style="dim")
        if finding.mend:
            text.append(f"\n→ {finding.mend}")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), finding.about, text)
    console.print(table)
    counts = Counter(finding.level for finding in findings)
    console.print(", ".join(f"{counts[level]} {level}" for level in reversed(LEVELS)), highlight=False)


def as_text(findings: Sequence[Finding]) -> str:
    """One object: counts by level, and the findings in the order in which they were found."""
    counts = Counter(finding.level for finding in findings)
    return json.dumps(
        {
            "counts": {level: counts[level] for level in LEVELS},
            "findings": [finding.model_dump() for finding in findings],
        }
    )
