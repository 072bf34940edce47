"""What the kernel says of a service's process: memory, open files, threads (on Linux)."""

import os
from pathlib import Path
from typing import NamedTuple

from loadtest.bench.processes import Running
from loadtest.chaos.scenario import Unable

_KIB = 1024


class Held(NamedTuple):
    """Memory in bytes (PSS), numbers of open files and of threads."""

    memory: int
    files: int
    threads: int


def held(service: Running) -> Held:
    """What it holds now. Raises Unable where the kernel does not tell."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise Unable("this system does not tell what memory a process holds (/proc/PID/smaps_rollup)")
    of_process = Path(f"/proc/{service.pid}")
    return Held(_memory(service.pid), len(os.listdir(of_process / "fd")), len(os.listdir(of_process / "task")))


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return _KIB * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
