"""Control groups as the kernel shows them."""

from collections.abc import Mapping
from pathlib import Path


def write_groups(root: Path, groups: str, files: Mapping[str, object]) -> None:
    """The control groups of a process, and files of theirs."""
    for path, content in (("proc/self/cgroup", groups), *((f"sys/fs/cgroup/{name}", files[name]) for name in files)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{content}\n")
