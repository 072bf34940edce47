"""`msd serve` in a process forked from one that has loaded the service: its second of imports is spent once for all.

What it is in a process of its own from the beginning, the tests in test_server.py and test_logs.py show, and every
service that is given a `python_path`.
"""

import atexit
import gc
import multiprocessing
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msd.contract import instructions

# What a service imports until it is ready; the last four are only imported while it starts.
_PRELOADED = [
    *("service.server.process", "service.command", "operations.check.command"),
    *("onnxruntime", "pydantic.v1", "uvicorn.lifespan.on", "uvicorn.loops.uvloop"),
    __name__,
]


class ForkedProcess:
    """`msd ARGUMENTS` in a process of its own, to be used as if subprocess.Popen had started it.

    Its standard streams are appended to `out` and `error`, which may be one file; `open_files` is the most that it may
    have open; it is `prepare`d before all else.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        out: Path,
        error: Path,
        open_files: int | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        given = (list(arguments), dict(environment), folder, out, error, open_files, prepare, instructions.CPUINFO)
        self._process = context.Process(target=_run, args=given)
        self._process.start()
        # Whoever starts the next one, in whatever thread, would ask after this one, and take its exit status away.
        multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit status, or None while it runs; it is below 0 if a signal ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if (status := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("msd", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # The fork server may know earlier that it has ended.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: list[str],
    environment: dict[str, str],
    folder: Path,
    out: Path,
    error: Path,
    open_files: int | None,
    prepare: Callable[[], None] | None,
    cpuinfo: Path,
) -> None:
    # No collection goes through the inherited objects, which would also copy their pages.
    gc.freeze()
    for path, stream in ((out, 1), (error, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    instructions.CPUINFO = cpuinfo
    if prepare is not None:
        prepare()
    from msd.__main__ import main

    try:
        main(arguments)
    finally:
        # A process of multiprocessing's ends without.
        atexit._run_exitfuncs()
