"""A process's memory, open files, threads and CPU time, from Linux."""

import os
from pathlib import Path
from typing import NamedTuple

from msd.contract.errors import MsdError

_KIB = 1024


class ProcessUsage(NamedTuple):
    """Memory in bytes (PSS), numbers of open files and of threads."""

    memory: int
    files: int
    threads: int


def held(pid: int) -> ProcessUsage:
    """Return a process's current usage. Raises MsdError if unavailable."""
    return ProcessUsage(_kib(pid, "smaps_rollup", "Pss"), len(_listed(pid, "fd")), len(_listed(pid, "task")))


def processor_seconds(pid: int) -> float:
    """Return a process's CPU seconds. Raises MsdError if unavailable."""
    # The name, in brackets, may contain spaces.
    user, system = _text(pid, "stat").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return resident memory in bytes. Raises MsdError if unavailable."""
    return _kib(pid, "status", "VmRSS")


def peak_resident(pid: int) -> int:
    """Return a process's peak resident memory. Raises MsdError if unavailable."""
    return _kib(pid, "status", "VmHWM")


def _kib(pid: int, file: str, name: str) -> int:
    return _KIB * next(int(line.split()[1]) for line in _text(pid, file).splitlines() if line.startswith(f"{name}:"))


def _listed(pid: int, folder: str) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/{folder}")
    except OSError as error:
        raise _untold(error) from None


def _text(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError as error:
        raise _untold(error) from None


def _untold(error: OSError) -> MsdError:
    return MsdError(f"this system does not tell what a process takes ({error.filename}): {error.strerror}")
