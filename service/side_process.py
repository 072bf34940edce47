"""Side processes as the supervisor sees them: auxiliaries that workers reach over sockets in a private folder. They are
started, started again with pauses, and ended last. Without one of them requests are still scored.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, BaseSelector
from typing import Literal, NamedTuple

import structlog

from msd.contract.errors import MsdError
from service.exchange import SharedNumbers
from service.metrics import Metrics
from service.settings import Settings
from service.worker_process import child_environment, ended_by

SideName = Literal["recorder", "log", "encoder"]
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LONG_LIFE_S = 60.0
_LAST_WORDS_S = 10.0
# What an AF_UNIX address takes on Linux and elsewhere, with the NUL behind it.
_MAX_ADDRESS_BYTES = 103


class SideSpec(NamedTuple):
    """One side process: its name, and the module that is run, whose `main` is `side_server.run_side_process`."""

    name: SideName
    module: str


def side_socket(folder: Path, name: SideName) -> Path:
    """Where the side process of that name listens."""
    return folder / f"{name}.sock"


class SideProcesses:
    """All side processes of one service. Rows of the numbers behind the workers' are theirs, in the specs' order."""

    def __init__(
        self,
        specs: Sequence[SideSpec],
        settings: Settings,
        numbers: SharedNumbers,
        metrics: Metrics,
        selector: BaseSelector,
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._specs = specs
        self._settings = settings
        self._numbers = numbers
        self._metrics = metrics
        self._selector = selector
        self._after = after
        self._first_row = numbers.slots - len(specs) + 1
        self._pauses = {spec.name: _FIRST_PAUSE_S for spec in specs}
        self._running: dict[SideName, _SideProcess] = {}
        self._is_over = False
        self._log = structlog.get_logger("msd.supervisor")
        self.folder = _private_folder() if specs else None
        """Where their sockets are; None where there is no side process."""

    def start(self) -> None:
        """Starts all. Raises MsdError where the kernel refuses."""
        for row, spec in enumerate(self._specs, self._first_row):
            try:
                self._start(spec, row)
            except OSError as error:
                raise MsdError(f"the service could not start its {spec.name} process: {error.strerror}") from error

    def finish(self) -> None:
        """Lets go of all, waits for their last words, and removes the folder."""
        self._is_over = True
        for process in self._running.values():
            process.let_go()
        end = time.monotonic() + _LAST_WORDS_S
        for process in self._running.values():
            process.wait_until(end)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, spec: SideSpec, row: int) -> None:
        assert self.folder is not None, "side processes have a folder"
        process = _SideProcess(spec, row, self._settings, self._numbers, side_socket(self.folder, spec.name))
        self._running[spec.name] = process
        self._selector.register(process.lifeline, EVENT_READ, lambda: self._bury(process))
        self._log.info("side_process_started", process=spec.name, pid=process.pid)

    def _bury(self, process: "_SideProcess") -> None:
        self._selector.unregister(process.lifeline)
        name = process.spec.name
        del self._running[name]
        cause, cpu_seconds = process.wait()
        self._metrics.processes.ended(process.row, cpu_seconds)
        self._metrics.families.forget_gauges(process.row)
        self._metrics.side_restarts[name].inc()
        if time.monotonic() - process.started_at > _LONG_LIFE_S:
            self._pauses[name] = _FIRST_PAUSE_S
        self._start_again(process.spec, process.row, cause)

    def _start_again(self, spec: SideSpec, row: int, cause: str) -> None:
        pause = self._pauses[spec.name]
        self._pauses[spec.name] = min(2 * pause, _LONGEST_PAUSE_S)
        self._log.error("side_process_ended", process=spec.name, cause=cause, again_in=pause)
        self._after(pause, lambda: self._try(spec, row))

    def _try(self, spec: SideSpec, row: int) -> None:
        if self._is_over:
            return
        try:
            self._start(spec, row)
        except OSError as error:
            self._start_again(spec, row, error.strerror or str(error))


class _SideProcess:
    """One process from its beginning to its end. It ends when its lifeline does, so never outlives the supervisor."""

    def __init__(self, spec: SideSpec, row: int, settings: Settings, numbers: SharedNumbers, path: Path) -> None:
        self.spec = spec
        self.row = row
        self.started_at = time.monotonic()
        self.lifeline, theirs = socket.socketpair()
        arguments = (theirs.fileno(), numbers.file_descriptor, numbers.slots, row, path)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", spec.module, *map(str, arguments)],
                    env=child_environment(settings),
                    pass_fds=(theirs.fileno(), numbers.file_descriptor),
                    process_group=0,
                )
        except OSError:
            self.lifeline.close()
            raise
        self.pid = self._process.pid

    def let_go(self) -> None:
        """Asks it to end when all is done."""
        with suppress(OSError):
            self.lifeline.shutdown(socket.SHUT_RDWR)

    def wait(self) -> tuple[str, float]:
        """How it ended, in words, and the seconds of processor time that it took."""
        self.lifeline.close()
        return ended_by(self._process)

    def wait_until(self, end: float) -> None:
        """Waits for its end, and brings it about when that does not come by `end` of the monotonic clock."""
        try:
            self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.lifeline.close()


def _private_folder() -> Path:
    """Nobody else's to look into. Raises MsdError where there can be none."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="msd-"))
    except OSError as error:
        raise MsdError(f"no folder for the service's sockets can be made ({error.strerror}): set TMPDIR") from error
    if len(os.fsencode(folder)) > _MAX_ADDRESS_BYTES - len("/recorder.sock"):
        folder.rmdir()
        raise MsdError(f"{folder}: too long a path for sockets; set TMPDIR to a shorter one")
    return folder
