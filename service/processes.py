"""What the service's processes cost, all of them together, read from the kernel when it is asked for.

The names are those of Prometheus's own clients.
"""

import os
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.families import Families

_PROC = Path("/proc")
# Fields of /proc/PID/stat, counted from the one after the command's name, which may hold spaces.
_USER_TICKS, _SYSTEM_TICKS, _STARTED, _VIRTUAL, _RESIDENT = 11, 12, 19, 20, 21


class Processes:
    """Keeps each process's id in its row, and tells of those that live and of the time that others took."""

    def __init__(self, families: Families, row: int) -> None:
        self._families = families
        self._pid, self._ended = families.cell(), families.cell()
        self._row = row
        families.numbers.rows[row][self._pid] = os.getpid()
        families.tell(self._cpu)
        families.tell(
            lambda: _gauge("resident_memory_bytes", "Resident memory size in bytes.", self._sum(_RESIDENT) * _page())
        )
        families.tell(lambda: _gauge("virtual_memory_bytes", "Virtual memory size in bytes.", self._sum(_VIRTUAL)))
        families.tell(lambda: _gauge("open_fds", "Number of open file descriptors.", sum(map(_open, self.alive()))))
        families.tell(lambda: _gauge("start_time_seconds", "Start time since unix epoch in seconds.", self._started()))

    def ended(self, row: int, cpu_seconds: float) -> None:
        """A worker ended after it took so much processor time; told by the supervisor."""
        self._families.numbers.rows[self._row][self._ended] += cpu_seconds
        self._families.numbers.rows[row][self._pid] = 0.0

    def alive(self) -> list[int]:
        """The ids of the processes that live."""
        return [int(pid) for pid in self._families.over_rows(self._pid) if pid]

    def _sum(self, field: int) -> int:
        return sum(_stat(pid, field) for pid in self.alive())

    def _cpu(self) -> Metric:
        ticks = self._sum(_USER_TICKS) + self._sum(_SYSTEM_TICKS)
        seconds = ticks / os.sysconf("SC_CLK_TCK") + sum(self._families.over_rows(self._ended))
        return CounterMetricFamily("process_cpu_seconds", "Total user and system CPU time in seconds.", seconds)

    def _started(self) -> float:
        """Of the oldest, so of the service."""
        ticks = min((_stat(pid, _STARTED) for pid in self.alive()), default=0)
        return _boot_time() + ticks / os.sysconf("SC_CLK_TCK")


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"process_{name}", text, value)


def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int, field: int) -> int:
    """0 of a process that has just ended, and where there is no /proc."""
    try:
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[field])
    except (OSError, IndexError, ValueError):
        return 0


def _open(pid: int) -> int:
    try:
        return len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return 0


def _boot_time() -> float:
    try:
        lines = (_PROC / "stat").read_text().splitlines()
    except OSError:
        return 0.0
    return float(next((line.split()[1] for line in lines if line.startswith("btime ")), 0))
