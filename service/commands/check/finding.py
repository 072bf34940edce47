"""What a look at a deployment found: how bad it is, what it is, why it matters and how to mend it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")


class Finding(BaseModel):
    """One finding. What is in order needs neither a reason nor mending."""

    model_config = ConfigDict(frozen=True)

    level: Level
    about: str
    what: str
    why: str = ""
    mend: str = ""


class Group:
    """Findings about one thing."""

    def __init__(self, about: str) -> None:
        self._about = about
        self.findings: list[Finding] = []

    def ok(self, what: str) -> None:
        """It is in order."""
        self.findings.append(Finding(level="ok", about=self._about, what=what))

    def note(self, what: str, why: str, mend: str) -> None:
        """It may be meant."""
        self._add("note", what, why, mend)

    def warning(self, what: str, why: str, mend: str) -> None:
        """It works, and will not always."""
        self._add("warning", what, why, mend)

    def error(self, what: str, why: str, mend: str) -> None:
        """It does not work, or lets in whom it should not."""
        self._add("error", what, why, mend)

    def _add(self, level: Level, what: str, why: str, mend: str) -> None:
        self.findings.append(Finding(level=level, about=self._about, what=what, why=why, mend=mend))
