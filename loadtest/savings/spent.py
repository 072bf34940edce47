"""What ways to score a page take: time, processor, memory. Linux alone tells of the memory and time of processes."""

import os
from pathlib import Path
from typing import NamedTuple

from loadtest.bench.processes import Running, ServiceError


class Spent(NamedTuple):
    """Of one request of `candidates` candidates: seconds at the median and of processor; and memory, in bytes."""

    candidates: int
    p50_s: float
    cpu_s: float
    memory: int


def processor_seconds(service: Running) -> float:
    """What a service has taken so far. Raises ServiceError where the kernel does not tell."""
    try:
        return _processor_seconds(service.pid)
    except OSError as error:
        raise ServiceError(f"this system does not tell what a process takes (/proc/PID/stat): {error}") from None


def peak_of_this_process() -> int:
    """The most memory that this process has held, in bytes."""
    return _status("VmHWM")


def memory_of_this_process() -> int:
    """What it holds now, in bytes."""
    return _status("VmRSS")


def _processor_seconds(pid: int) -> float:
    # The name, in brackets, may have spaces in it.
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
