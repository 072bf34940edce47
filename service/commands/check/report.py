"""Findings as people read them, and as programs do."""

import json
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.commands.check.finding import LEVELS, Finding

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


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


def as_json(findings: Sequence[Finding]) -> str:
    """One object: counts by level, and the findings in the order in which they were found."""
    counts = Counter(finding.level for finding in findings)
    return json.dumps(
        {
            "counts": {level: counts[level] for level in LEVELS},
            "findings": [finding.model_dump() for finding in findings],
        }
    )
