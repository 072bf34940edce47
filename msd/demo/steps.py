"""Steps of the demos and of the quickstart: `msd` commands with a heading and their time."""

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from msd.demo.service import DemoError, Line, command_of

# Added to the signal's number in exit codes.
_BY_SIGNAL = 128
Step = tuple[str, Line]
"""A step's name and the arguments of its command."""


@dataclass
class Steps:
    """Steps so far, with their durations in seconds."""

    console: Console
    total: int
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, *arguments: str | Path) -> None:
        """Run `msd ARGUMENTS` and show its output as it comes. Raises DemoError if it fails."""
        self._run(name, arguments, None)

    def read(self, name: str, *arguments: str | Path) -> str:
        """Run `msd ARGUMENTS` and return its standard output; standard error is still shown."""
        return self._run(name, arguments, subprocess.PIPE)

    def call(self, name: str, *arguments: str | Path) -> None:
        """Run `msd ARGUMENTS` in this process, which loads its libraries only once. Raises DemoError if it fails, and
        SystemExit if a signal ends it."""
        # The entry point knows all commands, including those of this folder.
        from msd.__main__ import main

        start, code = self._begin(name, arguments), 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
            if code > _BY_SIGNAL:
                raise
        self._end(name, arguments, start, code)

    def run_both(self, first: Sequence[Step], second: Step | None = None) -> None:
        """Run commands one after the other and, beside them, another one, each on half of the cores, because small
        steps leave cores idle for much of the time.

        The second's output is shown when both are over. Raises DemoError if a command fails.
        """
        half = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}
        if second is None:
            for step in first:
                self._run(*step, None, half)
            return
        (name, arguments), start = second, time.perf_counter()
        command, pipe = command_of(arguments), subprocess.PIPE
        with (
            subprocess.Popen(command, env=half, stdout=pipe, stderr=subprocess.STDOUT, text=True) as other,
            ThreadPoolExecutor(1) as thread,
        ):
            ended = thread.submit(lambda: (other.communicate()[0], time.perf_counter()))
            try:
                self.run_both(first)
            except BaseException:
                other.kill()
                raise
            output, end = ended.result()
        self._begin(name, arguments)
        self.console.print(output.rstrip(), markup=False, highlight=False)
        self._end(name, arguments, start, other.returncode, end)

    def _run(self, name: str, arguments: Line, output: int | None, environment: Mapping[str, str] | None = None) -> str:
        start = self._begin(name, arguments)
        done = subprocess.run(command_of(arguments), env=environment, stdout=output, text=True, check=False)
        self._end(name, arguments, start, done.returncode)
        return done.stdout or ""

    def _begin(self, name: str, arguments: Line) -> float:
        title = (f"{len(self.seconds) + 1}/{self.total} {name}", "bold")
        self.console.rule(Text.assemble(title, f"  msd {_quoted(arguments)}"), align="left")
        return time.perf_counter()

    def _end(self, name: str, arguments: Line, start: float, code: int, end: float | None = None) -> None:
        self.seconds[name] = round((end or time.perf_counter()) - start, 1)
        if code:
            raise DemoError(f"`msd {_quoted(arguments)}` ended with exit code {code}; its output is above")
        self.console.print(f"[dim]{name}: {self.seconds[name]} s[/]")


def _quoted(arguments: Line) -> str:
    return shlex.join(map(str, arguments))
