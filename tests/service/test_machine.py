"""How many cores a process may use, read from file systems as the kernel and container engines show them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.machine import scoring_threads, usable_cores
from service.settings import Settings

CORES = len(os.sched_getaffinity(0))
FILES: dict[str, tuple[dict[str, str], float]] = {
    "nothing": ({}, CORES),
    "v2, no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, CORES),
    "v2, half a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
    "v2, a parent's limit": (
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "sys/fs/cgroup/pod/cpu.max": "75000 100000",
            "sys/fs/cgroup/pod/container/cpu.max": "max 100000",
        },
        0.75,
    ),
    "v2, the host's path in a container": (
        {"proc/self/cgroup": "0::/../../elsewhere\n", "sys/fs/cgroup/cpu.max": "20000 100000"},
        0.2,
    ),
    "v1, no limit": (
        {"proc/self/cgroup": "4:cpu,cpuacct:/\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"},
        CORES,
    ),
    "v1, half a core": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n1:memory:/docker/abc\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "v1 below another name": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "30000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        0.3,
    ),
    "unreadable": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "many of them\n"}, CORES),
    "no period": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 0\n"}, CORES),
    "more than there are": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000\n"}, CORES),
}


@pytest.mark.parametrize("name", FILES)
def test_quotas_and_affinity(tmp_path: Path, name: str) -> None:
    files, cores = FILES[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert usable_cores(tmp_path) == pytest.approx(cores)


def test_on_this_machine() -> None:
    assert 0 < usable_cores() <= CORES


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
def test_threads_for_cores(given_settings: dict[str, object], cores: float, count: int) -> None:
    settings = Settings.model_validate({"bundle": "b", **given_settings})

    assert scoring_threads(settings, cores) == count


@given(st.floats(0.01, 512), st.integers(1, 256))
def test_there_is_always_a_thread_and_never_more_threads_than_cores(cores: float, threads: int) -> None:
    count = scoring_threads(Settings(bundle=Path("b"), threads=threads), cores)

    assert count >= 1
    assert count == 1 or count * threads <= cores
