"""What the machine and its control groups, of either version, leave to this process: cores and memory; how many scoring
threads are right for them; and threads that leave them to others. `root` is where /proc and /sys are looked for."""

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
# Version 1 says "no limit" by a number near 2 ** 63.
_NO_LIMIT = 2**60
# By version: the limit, what is used, and names in memory.stat of what is used and can be let go.
_MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


def usable_cores(root: Path = _ROOT) -> float:
    """The cores that scheduling and the control groups leave to this process, perhaps less than one."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for version, folder in _groups(root, "cpu"):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        with suppress(ValueError, ZeroDivisionError):  # "max" is no number
            quota, period = map(int, " ".join(_text(folder / name) for name in names).split())
            cores = min(cores, quota / period) if quota > 0 else cores
    return cores


def scoring_threads(settings: Settings, cores: float) -> int:
    """As many as the settings say; `auto` is one for each core, or for as many as one run takes, and one on a GPU."""
    if settings.workers is not None:
        return settings.workers
    return 1 if settings.provider == "cuda" else max(1, math.floor(cores / settings.threads))


def own_memory(root: Path = _ROOT) -> float:
    """Bytes of memory that cannot be dropped and read again, as mapped files can; NaN where Linux does not say."""
    told = _numbers(root / "proc/self/status")
    found = [told[name] for name in ("RssAnon:", "RssShmem:") if name in told]
    return 1_024.0 * sum(found) if found else math.nan


def memory_limit(root: Path = _ROOT) -> float:
    """Bytes that the control groups leave to the process; NaN without a limit."""
    limits = [_number(folder / _MEMORY[version][0]) for version, folder in _groups(root, "memory")]
    return min((float(limit) for limit in limits if limit is not None and limit < _NO_LIMIT), default=math.nan)


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes that this process may take more, by the machine and all control groups; None where neither tells."""
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
    """Lets the calling thread alone, for the rest of its life, have what other threads leave; on Linux. It should hold
    Python's lock for moments only: while it does and has no core, all other threads of its process wait."""
    if sys.platform == "linux":
        with suppress(OSError):
            here = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, here, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, here)))


def let_others_run() -> None:
    """Lets go of Python's lock for a moment: who waits for it need not wait for the next forced switch, 5 ms later."""
    time.sleep(0)


def _groups(root: Path, controller: Literal["cpu", "memory"]) -> Iterator[tuple[int, Path]]:
    """Version and folder of each control group that bounds the process, and of those above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and controller not in names:
            continue
        # Inside a container the path may be the host's: then the mount is its own.
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in dict.fromkeys((controllers, ",".join(sorted(names)), controller)) if controllers else ("",):
            for depth in range(len(parts) + 1):
                yield 1 if controllers else 2, (root / "sys/fs/cgroup" / mount).joinpath(*parts[:depth])


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _numbers(path: Path) -> dict[str, int]:
    """The lines of a file that have a name and a number, by name."""
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
