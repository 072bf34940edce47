"""Time, CPU and peak memory of a step."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from pydantic import BaseModel, ConfigDict

_EVERY_S = 0.1


class Cost(BaseModel):
    """Wall and CPU seconds, and the peak of own memory in MB: what cannot be dropped and read again, as mapped files
    can. None where Linux does not report it."""

    model_config = ConfigDict(extra="forbid")

    seconds: float
    cpu_seconds: float
    peak_mb: int | None


@contextmanager
def noted(costs: dict[str, Cost], step: str) -> Iterator[None]:
    """Note what the block took, also if it fails."""
    start, cpu, peak, is_over = time.perf_counter(), time.process_time(), own_mb(), Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(_EVERY_S):
            peak = max(peak, own_mb())

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
        took = time.perf_counter() - start, time.process_time() - cpu
        costs[step] = Cost(seconds=round(took[0], 1), cpu_seconds=round(took[1], 1), peak_mb=peak or None)


def own_mb(process: int | None = None) -> int:
    """Return a process's memory that is not of files, in MB; 0 if unknown. `process`: None for this one."""
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))) // 1_024
