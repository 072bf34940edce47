"""Services as child processes: waited for until ready, ended with the block. Knows how each is started. Measures
nothing.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from loadtest.http_client import ClientError, ServiceConnection, wait_until
from msd.contract.errors import MsdError
from msd.free_port import free_port

_READY_WITHIN_S = 60.0
_STOP_WITHIN_S = 20.0


class ProcessError(MsdError):
    """A service of the benchmark did not start."""


@dataclass(frozen=True)
class Service:
    """How a service is started. Ready when `health` answers 200.

    `{port}` in its command or environment stands for its port; `{port 2}` and `{port 3}` for others that are free.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    health: str


def ours(name: str, bundle: Path, workers: int | Literal["auto"], redis: str | None, **settings: object) -> Service:
    """Return `msd serve` with a number of scoring threads, rows from Redis or from the bundle's files, and settings by
    name."""
    store = {"store": "file"} if redis is None else {"store": "redis", "redis_url": redis}
    given = {"workers": workers, "log_level": "warning", "drain_seconds": 0, **store, **settings}
    return Service(
        name,
        (sys.executable, "-m", "msd", "serve", str(bundle), "--port", "{port}"),
        {f"MSD_{name.upper()}": str(value) for name, value in given.items()},
        "/health/ready",
    )


class Running:
    """A running service. Its output goes to a file in `logs`; unless it `is_read`, to a pipe that fills up."""

    def __init__(self, service: Service, logs: Path, *, is_read: bool = True) -> None:
        """Raises ProcessError if its command cannot be run."""
        ports = {name: str(free_port()) for name in ("{port}", "{port 2}", "{port 3}")}

        def filled(text: str) -> str:
            for name, port in ports.items():
                text = text.replace(name, port)
            return text

        self.url = filled("http://127.0.0.1:{port}")
        self._service = service
        self._log = logs / f"{service.name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._command = [filled(part) for part in service.command]
        self._environment = _environment({name: filled(value) for name, value in service.environment.items()})
        self._log.unlink(missing_ok=True)
        if not is_read:
            os.mkfifo(self._log)
            # Held open, because a writer would wait for a reader otherwise; it is never read.
            self._reader = os.open(self._log, os.O_RDONLY | os.O_NONBLOCK)
        self.start()

    def __enter__(self) -> Self:
        """Wait until it is ready; it ends with the block."""
        try:
            self.wait()
        except BaseException:
            end([self])
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end([self])

    def start(self) -> None:
        """Start the service, also again after `kill`. Raises ProcessError if its command cannot be run."""
        with self._log.open("ab") as output:
            try:
                # In a new process group, so that leftover children are found.
                self._process = subprocess.Popen(
                    self._command, stdout=output, stderr=subprocess.STDOUT, env=self._environment, process_group=0
                )
            except OSError as error:
                reason = f"{self._command[0]} cannot be started: {error.strerror}"
                raise ProcessError(f"{self._service.name}: {reason}") from error

    def kill(self) -> None:
        """Kill the service and whatever it started by SIGKILL."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> None:
        """Wait until it is ready. Raises ProcessError, quoting its output, if it ends or takes too long."""
        name = self._service.name

        def is_ready() -> bool:
            if self._process.poll() is not None:
                raise ProcessError(f"{name}: ended with exit code {self._process.returncode}; it said: {self._tail()}")
            with ServiceConnection(self.url, timeout=2.0) as client:
                client.get(self._service.health).check(200)
            return True

        try:
            wait_until(f"{name} is ready", is_ready, _READY_WITHIN_S)
        except ClientError as error:
            raise ProcessError(f"{error}; it said: {self._tail()}") from None

    @property
    def pid(self) -> int:
        """The process ID of the service."""
        return self._process.pid

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def wait_for_end(self) -> int:
        """Return its exit status. Raises ProcessError if it does not end."""
        try:
            return self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self._service.name}: did not end within {_STOP_WITHIN_S:.0f} s") from None

    def join(self) -> None:
        """Wait for its end, and end leftover children: not every server ends its own workers."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _tail(self) -> str:
        return (
            (self._log.read_text(errors="replace")[-1_000:].strip() or "nothing") if self._log.is_file() else "unread"
        )


@contextmanager
def running(services: Sequence[Service], logs: Path) -> Iterator[list[str]]:
    """Start services side by side, and yield their addresses. Raises ProcessError as `Running` does."""
    started: list[Running] = []
    try:
        for service in services:
            started.append(Running(service, logs))
        for one in started:
            one.wait()
        yield [one.url for one in started]
    finally:
        end(started)


def end(services: Sequence[Running]) -> None:
    """End services side by side."""
    for one in services:
        one.terminate()
    for one in services:
        one.join()


def msd_output(*arguments: str) -> str:
    """Return the output of a `msd` command. Raises ProcessError with its output if it fails."""
    command = [sys.executable, "-m", "msd", *arguments]
    done = subprocess.run(command, env=_environment({}), text=True, capture_output=True, check=False)
    if done.returncode and not done.stdout:
        raise ProcessError(f"`msd {' '.join(arguments)}` failed: {done.stderr.strip()[-1_000:]}")
    return done.stdout


def publish(bundle: Path, redis: str) -> None:
    """Run `msd publish`. Raises ProcessError with its output."""
    msd_output("publish", str(bundle), "--redis", redis)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without variables that would affect the services."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MSD_", "NAIVE_"))}
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, (str(root), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **given}
