"""CPU and memory that the machine and its control groups (v1 and v2) leave to this process; the number of scoring
threads; and low-priority threads.

`root` is where /proc and /sys are looked for.
"""

import ctypes
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from service.settings import Settings

_ROOT = Path("/")
_NICENESS = 10
# Version 1 writes "no limit" as a number near 2 ** 63.
_NO_LIMIT = 2**60
# By version: the files of limit and usage, and the memory.stat names of reclaimable memory.
_MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def usable_cores(root: Path = _ROOT) -> float:
    """Return the cores that affinity and control groups leave to this process, possibly less than one."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for version, folder in _groups(root, "cpu"):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with suppress(ValueError, ZeroDivisionError):  # "max" means no limit
            quota, period = map(int, " ".join(_text(folder / name) for name in names).split())
            cores = min(cores, quota / period) if quota > 0 else cores
    return cores


def scoring_threads(settings: Settings, cores: float) -> int:
    """Return the number of scoring threads: that of the settings, or with `auto` one per core (or per run's threads),
    and one on a GPU."""
    if settings.workers is not None:
        return settings.workers
    return 1 if settings.provider == "cuda" else max(1, math.floor(cores / settings.threads))


def own_memory(root: Path = _ROOT) -> float:
    """Return bytes of memory that cannot be dropped and re-read, as mapped files can; NaN if Linux does not report
    it."""
    status = _numbers(root / "proc/self/status")
    found = [status[name] for name in ("RssAnon:", "RssShmem:") if name in status]
    return 1_024.0 * sum(found) if found else math.nan


def memory_limit(root: Path = _ROOT) -> float:
    """Return the memory limit of the control groups in bytes; NaN without a limit."""
    limits = [_number(folder / _MEMORY[version][0]) for version, folder in _groups(root, "memory")]
    return min((float(limit) for limit in limits if limit is not None and limit < _NO_LIMIT), default=math.nan)


def free_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes that this process may still allocate, by the machine and all control groups; None if unknown."""
    free = []
    if (available := _numbers(root / "proc/meminfo").get("MemAvailable:")) is not None:
        free.append(available * 1_024)
    for version, folder in _groups(root, "memory"):
        limit_name, usage_name, reclaimable = _MEMORY[version]
        limit, used = _number(folder / limit_name), _number(folder / usage_name)
        if limit is not None and used is not None:
            held = _numbers(folder / "memory.stat")
            free.append(max(0, limit - used + sum(held.get(name, 0) for name in reclaimable)))
    return min(free, default=None)


def give_way() -> None:
    """Lower the priority of the calling thread for the rest of its life; on Linux.

    It should hold Python's lock only briefly: while it does and has no core, all other threads of the process wait.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            here = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, here, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, here)))


def let_others_run() -> None:
    """Release Python's lock for a moment, so that waiting threads need not wait for the next forced switch, 5 ms
    later."""
    time.sleep(0)


def _groups(root: Path, controller: Literal["cpu", "memory"]) -> Iterator[tuple[int, Path]]:
    """Return version and folder of each control group that bounds the process, and of its ancestors."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and controller not in names:
            continue
        # In a container the path may be the host's: then use the mount itself.
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in dict.fromkeys((controllers, ",".join(sorted(names)), controller)) if controllers else ("",):
            for depth in range(len(parts) + 1):
                yield 1 if controllers else 2, (root / "sys/fs/cgroup" / mount).joinpath(*parts[:depth])


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def return_freed_memory() -> None:
    """Return memory that the allocator keeps to the system; a no-op if the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
