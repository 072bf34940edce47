"""Steps of the demos and of the quickstart: `msd` commands with a heading and their time, and services to ask."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx
from rich.console import Console
from rich.text import Text

from msd.contract.errors import MsdError
from msd.duration import about
from msd.free_port import free_port

Line = tuple[str | Path, ...]
_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 30.0


class DemoError(MsdError):
    """A step failed, or its folder or data cannot be used."""


@dataclass
class Steps:
    """Steps so far, with their seconds. `planned`: estimated seconds of some steps."""

    console: Console
    total: int
    planned: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> None:
        """Run `msd ARGUMENTS` and show its output as it comes. Raises DemoError if it fails."""
        self._run(name, arguments, None, environment)

    def read(self, name: str, *arguments: str | Path) -> str:
        """Run `msd ARGUMENTS` and return its standard output; standard error is still shown."""
        return self._run(name, arguments, subprocess.PIPE)

    def call(self, name: str, *arguments: str | Path) -> None:
        """Run `msd ARGUMENTS` in this process, which loads its libraries only once. Raises DemoError if it fails."""
        # The entry point knows all commands, including those of this folder.
        from msd.__main__ import main

        start, code = self._begin(name, arguments), 0
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
        with TemporaryFile("w+") as output:
            other = subprocess.Popen(_command(arguments), env=half, stdout=output, stderr=subprocess.STDOUT)
            try:
                self.run(first[0], *first[1], environment=half)
                self._begin(name, arguments)
                code = other.wait()
            finally:
                other.kill()
                other.wait()
            output.seek(0)
            self.console.print(output.read().rstrip(), markup=False, highlight=False)
        self._end(name, arguments, start, code)

    def _run(self, name: str, arguments: Line, output: int | None, environment: Mapping[str, str] | None = None) -> str:
        start = self._begin(name, arguments)
        done = subprocess.run(_command(arguments), env=environment, stdout=output, text=True, check=False)
        self._end(name, arguments, start, done.returncode)
        return done.stdout or ""

    def _begin(self, name: str, arguments: Line) -> float:
        title = (f"{len(self.seconds) + 1}/{self.total} {name}", "bold")
        done = [step for step, planned in self.planned.items() if step in self.seconds and planned]
        # What is left is as slow as what is done.
        pace = sum(self.seconds[step] for step in done) / sum(self.planned[step] for step in done) if done else 1.0
        left = pace * sum(seconds for step, seconds in self.planned.items() if step not in self.seconds)
        plan = f"  {about(left)} from here" if name in self.planned else ""
        self.console.rule(Text.assemble(title, f"  msd {_quoted(arguments)}", (plan, "dim")), align="left")
        return time.perf_counter()

    def _end(self, name: str, arguments: Line, start: float, code: int) -> None:
        self.seconds[name] = round(time.perf_counter() - start, 1)
        if code:
            raise DemoError(f"`msd {_quoted(arguments)}` ended with exit code {code}; its output is above")
        self.console.print(f"[dim]{name}: {self.seconds[name]} s[/]")


def _command(arguments: Line) -> list[str]:
    return [sys.executable, "-m", "msd", *map(str, arguments)]


def _quoted(arguments: Line) -> str:
    return shlex.join(map(str, arguments))


@contextmanager
def serve(
    bundle: Path, log: Path, *options: str, port: int | None = None, **settings: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve `bundle`, by default on a free port; yield the address and the process once ready, and stop it at the end.

    Output goes to `log`. `settings`: MSD_ variables.
    """
    port = port or free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        # Only the demo sends requests, so no drain time is needed.
        environment = {**os.environ, "MSD_DRAIN_SECONDS": "0", **settings}
        command = _command(("serve", bundle, "--port", str(port), *options))
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, process, log)
            yield url, process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    fault = f"was not ready within {_READY_WITHIN_S:.0f} s"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            fault = f"ended with exit code {process.returncode}"
            break
        try:
            if httpx.get(f"{url}/health/ready", timeout=2, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise DemoError(f"the service {fault}; its log: {log.read_text(errors='replace')[-1_000:].strip() or 'empty'}")


def score(url: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reply to a scoring request. Raises DemoError."""
    reply = httpx.post(f"{url}/v1/score", json=request, timeout=10, trust_env=False)
    if reply.status_code != httpx.codes.OK:
        raise DemoError(f"{url} answered {reply.status_code}: {reply.text[:300]}")
    found: dict[str, Any] = reply.json()
    return found
