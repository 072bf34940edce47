"""This process's memory settings, and any process's memory, open files and threads, from Linux."""

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

from msd.contract.errors import MsdError

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# glibc's maximum for both.
_LARGEST_BLOCK, _MOST_KEPT = 32 << 20, 1 << 30


class ProcessUsage(NamedTuple):
    """Memory in bytes (PSS), the part that no file backs, and numbers of open files and of threads."""

    memory: int
    anonymous: int
    files: int
    threads: int


def held(pid: int) -> ProcessUsage:
    """Return a process's current usage. Raises MsdError if unavailable."""
    folder = Path(f"/proc/{pid}")
    try:
        rollup = (folder / "smaps_rollup").read_text().splitlines()
        files, threads = (len(os.listdir(folder / name)) for name in ("fd", "task"))
    except OSError as error:
        raise MsdError(f"this system does not tell what a process takes ({error.filename}): {error.strerror}") from None
    kib = {line.split()[0]: int(line.split()[1]) for line in rollup[1:]}
    return ProcessUsage(1024 * kib["Pss:"], 1024 * kib["Pss_Anon:"], files, threads)


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next allocation; other C libraries are left as they are.

    Each step of training frees the same tens of MB and asks for them again. By default they go back to the kernel each
    time, and every page of them then costs a fault: a quarter of the time of a step on a virtual machine.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
