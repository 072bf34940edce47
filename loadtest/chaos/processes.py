"""What the kernel says of a service's processes: memory, open files, threads (on Linux)."""

import os
from pathlib import Path
from typing import NamedTuple

from loadtest.bench.processes import Running
from loadtest.chaos.scenario import Unable

_KIB = 1024


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


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return _KIB * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
