"""The cores that this process may really use, how many scoring threads are right for them, and threads that leave them
to others."""

import math
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from service.settings import Settings

_NICENESS = 10


def usable_cores(root: Path = Path("/")) -> float:
    """The cores that scheduling and the control groups leave to this process, perhaps less than one.

    `root` is where /proc and /sys are looked for.
    """
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return min([cores, *_quotas(root)])


def scoring_threads(settings: Settings, cores: float) -> int:
    """As many as the settings say; `auto` is one for each core, or for as many as one run takes, and one on a GPU."""
    if settings.workers is not None:
        return settings.workers
    return 1 if settings.provider == "cuda" else max(1, math.floor(cores / settings.threads))


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


def _quotas(root: Path) -> list[float]:
    """Of the process's control group and all above it, by either version of their file system."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found: list[float | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [_quota_v2(folder) for folder in _folders(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys((controllers, "cpu,cpuacct", "cpu")):
                found += [_quota_v1(folder) for folder in _folders(root / "sys/fs/cgroup" / mount, path)]
    return [quota for quota in found if quota is not None]


def _folders(mount: Path, path: str) -> list[Path]:
    """A group's folder and those above it. Inside a container the path may be the host's: then the mount is its own."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None
