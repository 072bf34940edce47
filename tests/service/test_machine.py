"""Cores and memory that a process may use, read from file systems as the kernel and container engines show them."""

import math
import mmap
import os
from pathlib import Path

import pytest

from service.machine import free_memory, memory_limit, own_memory, scoring_threads, usable_cores
from service.settings import Settings
from tests.service.control_groups import write_groups

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {}, CORES),
        ("0::/", {"cpu.max": "max 100000\n"}, CORES),
        ("0::/", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/pod/container", {"pod/cpu.max": "75000 100000", "pod/container/cpu.max": "max 100000"}, 0.75),
        # A container sees the host's path.
        ("0::/../../elsewhere", {"cpu.max": "20000 100000"}, 0.2),
        (
            "4:cpu,cpuacct:/docker/abc\n1:memory:/docker/abc\n0::/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("0::/", {"cpu.max": "many of them\n"}, CORES),
        ("0::/", {"cpu.max": "99900000 100000\n"}, CORES),
    ],
)
def test_cores_are_bounded_by_quotas_and_affinity(
    tmp_path: Path, groups: str, files: dict[str, str], cores: float
) -> None:
    write_groups(tmp_path, groups, files)
    assert usable_cores(tmp_path) == pytest.approx(cores)


MEMORY: dict[str, tuple[str, dict[str, str], int | None, float]] = {
    "no limit": ("0::/a/b", {"a/b/memory.max": "max", "a/b/memory.current": "5"}, None, math.nan),
    "no files": ("0::/", {}, None, math.nan),
    "a parent's": (
        "0::/a/b",
        {"a/memory.max": "800", "a/memory.current": "700", "a/b/memory.max": "max"},
        100,
        800,
    ),
    "page cache": (
        "0::/a",
        {"a/memory.max": "900", "a/memory.current": "700", "a/memory.stat": "anon 600\ninactive_file 60\nshmem 7\n"},
        260,
        900,
    ),
    "full": ("0::/a", {"a/memory.max": "900", "a/memory.current": "950"}, 0, 900),
    "the mount is the group": ("0::/of/the/host", {"memory.max": "900", "memory.current": "700"}, 200, 900),
    "version 1": (
        "4:cpu:/a\n3:memory:/a",
        {
            "memory/a/memory.limit_in_bytes": "900",
            "memory/a/memory.usage_in_bytes": "700",
            "memory/a/memory.stat": "total_active_file 50\n",
        },
        250,
        900,
    ),
    "version 1, no limit": ("7:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None, math.nan),
}


@pytest.mark.parametrize(("groups", "files", "free", "limit"), MEMORY.values(), ids=MEMORY.keys())
def test_free_memory_and_its_limit_are_those_of_the_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], free: int | None, limit: float
) -> None:
    write_groups(tmp_path, groups, files)
    assert free_memory(tmp_path) == free
    assert memory_limit(tmp_path) == pytest.approx(limit, nan_ok=True)


def test_mapped_files_are_not_own_memory(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(bytes(2**26))
    with open(tmp_path / "rows", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        before = own_memory()
        assert sum(mapped[::4096]) == 0
        assert 2**20 < own_memory() < before + 2**25

    assert math.isnan(own_memory(tmp_path))


@pytest.mark.parametrize(
    ("given_settings", "cores", "count"),
    [
        ({}, 0.5, 1),
        ({}, 1.9, 1),
        ({}, 8, 8),
        ({"threads": 3}, 8, 2),
        ({"threads": 16}, 8, 1),
        ({"workers": "auto"}, 2, 2),
        ({"workers": 7}, 0.5, 7),
        ({"provider": "cuda"}, 16, 1),
        ({"provider": "cuda", "workers": 2}, 16, 2),
    ],
)
def test_scoring_threads_fit_the_cores(given_settings: dict[str, object], cores: float, count: int) -> None:
    assert scoring_threads(Settings.model_validate({"bundle": "b", **given_settings}), cores) == count
