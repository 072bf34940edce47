"""What is known of the process itself: the release that it runs, and how much memory it has and may have."""

import json
import math
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_ROOT = Path("/")


class Build(NamedTuple):
    """A release: its version, and the commit it was built from, empty if unknown."""

    version: str
    commit: str


def build_of(revision: str | None) -> Build:
    """This release; `revision` is its commit where the installed package does not say (PEP 610)."""
    try:
        package = distribution("msd-ctr")
    except PackageNotFoundError:  # a checkout that is run without being installed
        return Build("0", revision or "")
    with suppress(ValueError, AttributeError, KeyError):
        origin = json.loads(package.read_text("direct_url.json") or "{}")
        return Build(package.version, revision or str(origin["vcs_info"]["commit_id"]))
    return Build(package.version, revision or "")


def own_memory(root: Path = _ROOT) -> float:
    """Bytes of memory that cannot be dropped and read again, as mapped files can; NaN where Linux does not say."""
    try:
        lines = (root / "proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    found = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return 1_024.0 * sum(int(value.split()[0]) for value in found.values()) if found else math.nan


def memory_limit(root: Path = _ROOT) -> float:
    """Bytes that the control groups, of either version, leave to the process; NaN without a limit."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return math.nan
    limits = []
    for _, controllers, path in groups:
        if not controllers:
            limits += _limits(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(limits, default=math.nan)


def _limits(mount: Path, path: str, name: str) -> list[float]:
    """Of a group and those above it. Inside a container the path may be the host's: then the mount is its own."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    found = []
    for depth in range(len(parts) + 1):
        with suppress(OSError, ValueError):
            limit = float(mount.joinpath(*parts[:depth], name).read_text())  # "max" is no number
            # Version 1 says "none" by a number near 2 ** 63.
            found += [limit] if limit < 2**60 else []
    return found
