"""What a benchmark ran on: without it, seconds mean nothing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("msd-ctr", "torch", "numpy", "scikit-learn", "polars")


def machine() -> dict[str, object]:
    """Cores that this process may use, the processor's name, and the versions of what computes."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": processor(Path("/proc/cpuinfo")),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def processor(cpuinfo: Path) -> str:
    """The first processor's name as Linux tells it in that file, or else what the platform says."""
    try:
        lines = cpuinfo.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of the checkout"
