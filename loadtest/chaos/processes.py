"""What the kernel says of a service's processes: memory, open files, threads (on Linux); and who starts one again."""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from loadtest.bench.processes import Running
from loadtest.chaos.scenario import Unable

_KIB = 1024
_POLL_S, _PAUSE_S, _PATIENCE_S = 0.005, 0.1, 60.0


class Held(NamedTuple):
    """Of all processes of a service together. Memory that several share counts once, in bytes."""

    memory: int
    files: int
    threads: int


def held(service: Running) -> Held:
    """What it holds now. Raises Unable where the kernel does not tell."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise Unable("this system does not tell what memory a process holds (/proc/PID/smaps_rollup)")
    pids = [service.pid, *service.workers]
    return Held(
        sum(_memory(pid) for pid in pids),
        sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
    )


class Restarter:
    """Starts a service again when it has ended, as systemd does with `Restart=always` and `RestartSec=100ms`; until the
    block's end."""

    def __init__(self, service: Running) -> None:
        self.count = 0
        """How often it was started again."""
        self._service = service
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="restarter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def wait_for(self, count: int) -> None:
        """Until it has been started again so often. Raises Unable where it is not."""
        until = time.monotonic() + _PATIENCE_S
        while self.count < count:
            if time.monotonic() > until:
                raise Unable(f"the service was not started again within {_PATIENCE_S:g} s")
            time.sleep(_POLL_S)

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL_S):
            if self._service.has_ended and not self._stopped.wait(_PAUSE_S):
                self._service.again()
                self.count += 1


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return _KIB * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
