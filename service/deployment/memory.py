"""Whether there is memory to load another bundle beside the one that serves: the kernel ends a process that takes more
than its control group may have, with all that it serves.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from msd.contract.bundle import MERGED_RANKER, RANKER, Manifest
from msd.contract.errors import MsdError

# Of a graph's file: what a runtime takes at most while it loads it (ONNX Runtime 1.8, OpenVINO 2.1 for its two graphs).
_TIMES_GRAPH = 2.5
_BESIDE_BYTES = 32 * 2**20
# By version of control groups: the limit, what is used, and names in memory.stat of what is used and can be let go.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


class Scarce(MsdError):
    """A bundle cannot be loaded just now, for want of memory or open files; it may be a moment later."""


def check_memory(manifest: Manifest, folder: Path, root: Path = Path("/")) -> None:
    """Raises Scarce where loading the bundle in `folder` would take more than is free. `root`: where /proc and /sys are
    looked for."""
    sizes = (entry.size for name, entry in manifest.files.items() if name in (RANKER, MERGED_RANKER))
    wanted = int(_TIMES_GRAPH * sum(sizes)) + _BESIDE_BYTES
    free = free_bytes(root)
    if free is not None and wanted > free:
        raise Scarce(
            f"{folder}: loading it takes about {wanted >> 20} MB of memory, but {free >> 20} MB are left for this"
            " process; raise its memory limit, or free memory"
        )


def free_bytes(root: Path = Path("/")) -> int | None:
    """What this process may take more, by the machine and all control groups above it; None where neither tells."""
    return min([*_free_of_machine(root), *_free_of_groups(root)], default=None)


def _free_of_machine(root: Path) -> Iterator[int]:
    found = _numbers(root / "proc/meminfo").get("MemAvailable:")
    if found is not None:
        yield found * 1024


def _free_of_groups(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # Inside a container the path may be the host's: then the mount is its own.
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for depth in range(len(parts) + 1):
            yield from _free_of_group(mount.joinpath(*parts[:depth]), *(_V1 if controllers else _V2))


def _free_of_group(folder: Path, limit: str, usage: str, reclaimable: tuple[str, ...]) -> Iterator[int]:
    most, used = _text(folder / limit).strip(), _text(folder / usage).strip()
    if most.isdecimal() and used.isdecimal():
        held = _numbers(folder / "memory.stat")
        yield max(0, int(most) - int(used) + sum(held.get(name, 0) for name in reclaimable))


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in _text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
