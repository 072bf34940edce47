"""Commands of the demo and of the quickstart, each run with a heading and its time."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.text import Text

from msd.contract.errors import MsdError
from msd.duration import about

Line = tuple[str | Path, ...]


class DemoError(MsdError):
    """A step failed, or its folder or data cannot be used."""


@dataclass
class Steps:
    """Steps so far, with their seconds. `planned`: estimated seconds of some steps."""

    console: Console
    total: int
    planned: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run `msd ARGUMENTS` and show its output as it comes. Raises DemoError if it fails."""
        self._time(name, arguments, capture=False)

    def call(self, name: str, *arguments: str | Path) -> None:
        """Run `msd ARGUMENTS` in this process, which loads its libraries only once. Raises DemoError if it fails."""
        # The entry point knows all commands, including those of this folder.
        from msd.__main__ import main

        self._head(name, arguments)
        start, code = time.perf_counter(), 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        self._end(name, arguments, start, code)

    def run_both(self, first: tuple[str, Line], second: tuple[str, Line]) -> None:
        """Run two commands concurrently, each on half of the cores. This is faster than one after the other, because
        small steps leave cores idle for much of the time.

        The second's output is shown when both are over. Raises DemoError if either fails.
        """
        (name, arguments), start = second, time.perf_counter()
        half = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
        with TemporaryFile("w+") as words:
            other = subprocess.Popen(_command(arguments), env=half, stdout=words, stderr=subprocess.STDOUT)
            try:
                self._time(*first, capture=False, environment=half)
                self._head(name, arguments)
                code = other.wait()
            finally:
                other.kill()
                other.wait()
            words.seek(0)
            self.console.print(words.read().rstrip(), markup=False, highlight=False)
        self._end(name, arguments, start, code)

    def read(self, name: str, *arguments: str | Path) -> str:
        """Run `msd ARGUMENTS` and return its standard output; standard error is still shown."""
        return self._time(name, arguments, capture=True)

    def _time(self, name: str, arguments: Line, *, capture: bool, environment: Mapping[str, str] | None = None) -> str:
        self._head(name, arguments)
        start = time.perf_counter()
        output = subprocess.PIPE if capture else None
        done = subprocess.run(_command(arguments), env=environment, stdout=output, text=True, check=False)
        self._end(name, arguments, start, done.returncode)
        return done.stdout or ""

    def _head(self, name: str, arguments: Line) -> None:
        title = (f"{len(self.seconds) + 1}/{self.total} {name}", "bold")
        left = sum(seconds for step, seconds in self.planned.items() if step not in self.seconds)
        told = f"  {about(left)} from here" if name in self.planned else ""
        self.console.rule(Text.assemble(title, f"  msd {_shown(arguments)}", (told, "dim")), align="left")

    def _end(self, name: str, arguments: Line, start: float, code: int) -> None:
        self.seconds[name] = round(time.perf_counter() - start, 1)
        if code:
            raise DemoError(f"`msd {_shown(arguments)}` ended with exit code {code}; its output is above")
        self.console.print(f"[dim]{name}: {self.seconds[name]} s[/]")


def _command(arguments: Line) -> list[str]:
    return [sys.executable, "-m", "msd", *map(str, arguments)]


def _shown(arguments: Line) -> str:
    return shlex.join(map(str, arguments))
