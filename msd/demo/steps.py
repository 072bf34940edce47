"""Runs the commands of the demo as subprocesses, one after another, each with its heading and its time."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from msd.contract.errors import MsdError


class DemoError(MsdError):
    """A step of the demo did not end well."""


@dataclass
class Steps:
    """The steps so far, with their seconds."""

    console: Console
    total: int
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, *arguments: str | Path) -> None:
        """`msd ARGUMENTS`, its output shown as it comes. Raises DemoError if it fails."""
        self._time(name, arguments, capture=False)

    def read(self, name: str, *arguments: str | Path) -> str:
        """`msd ARGUMENTS` with its standard output returned; progress on standard error is still shown."""
        return self._time(name, arguments, capture=True)

    def _time(self, name: str, arguments: tuple[str | Path, ...], *, capture: bool) -> str:
        line = [str(argument) for argument in arguments]
        title = Text.assemble((f"{len(self.seconds) + 1}/{self.total} {name}", "bold"), f"  msd {shlex.join(line)}")
        self.console.rule(title, align="left")
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "msd", *line], stdout=subprocess.PIPE if capture else None, text=True, check=False
        )
        self.seconds[name] = round(time.perf_counter() - start, 1)
        if done.returncode:
            raise DemoError(f"`msd {shlex.join(line)}` ended with exit code {done.returncode}; its words are above")
        self.console.print(f"[dim]{name}: {self.seconds[name]} s[/]")
        return done.stdout or ""
