"""Training on many made-up events, for the time and memory of its phases: they should not grow with the rows."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic
from msd.demo.service import command_of
from msd.nightly.cost import Cost, own_mb
from msd.step import STEP_FILE
from msd.training.folder import WORK

USERS, ITEMS = 20_000, 5_000
_GENRES, _DEVICES = 20, 3
_ROWS_AT_ONCE, _ROW_GROUP = 2**20, 2**18
_START, _DAYS_S = 1_700_000_000, 90 * 86_400
_LOOK_S = 0.1
_DATASET = """format = 1
name = "zipf"

[events]
file = "events.parquet"

[items]
file = "items.parquet"

[history]
length = 8

[[features]]
name = "genre"
side = "item"
kind = "categorical"

[[features]]
name = "device"
side = "context"
kind = "categorical"
"""


def run_stream(folder: Path, rows: int, epochs: int, hear: Callable[[str], None]) -> dict[str, Any]:
    """Return the costs of the phases of `msd train --network lr`: its memory is that of any network's features. The
    folder must be new. Raises MsdError."""
    hear(f"{rows:,} events")
    _write_dataset(folder / "data", rows)
    hear("training")
    model, log = folder / "model", folder / "train.log"
    with log.open("wb") as output:
        line = ("train", "--no-semantics", "--network", "lr", "--epochs", str(epochs), folder / "data", model)
        process = subprocess.Popen(command_of(line), stdout=output, stderr=subprocess.STDOUT)
    steps = _watched(process, lambda: any(model.glob(f"{WORK}/features/*/{STEP_FILE}")))
    if process.returncode:
        raise MsdError(f"the training failed; its output: {log}")
    return {"impressions": rows, "steps": {name: cost.model_dump() for name, cost in steps.items()}}


def _watched(process: subprocess.Popen[bytes], has_written: Callable[[], bool]) -> dict[str, Cost]:
    """Return what a training took until its features were written, and after that."""
    steps: dict[str, Cost] = {}
    began, phase = time.perf_counter(), "write"
    cpu = spent = 0.0
    peak = 0
    while process.poll() is None:
        if phase == "write" and has_written():
            steps[phase] = Cost(seconds=_rounded(began), cpu_seconds=round(cpu, 1), peak_mb=peak)
            began, phase, spent, peak = time.perf_counter(), "train", cpu, 0
        peak, cpu = max(peak, own_mb(process.pid)), _cpu_seconds(process.pid) or cpu
        time.sleep(_LOOK_S)
    steps[phase] = Cost(seconds=_rounded(began), cpu_seconds=round(cpu - spent, 1), peak_mb=peak)
    return steps


def _rounded(began: float) -> float:
    return round(time.perf_counter() - began, 1)


def _cpu_seconds(process: int) -> float:
    """Return the CPU time of a process; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write_dataset(folder: Path, rows: int) -> None:
    """Write events of users and items drawn by Zipf's law, in parts whose rows are not sorted."""
    folder.mkdir(parents=True)
    write_text_atomic(folder / "dataset.toml", _DATASET)
    items = [f"ad-{item}" for item in range(ITEMS)]
    genres = [f"genre-{item % _GENRES}" for item in range(ITEMS)]
    pl.DataFrame({"item_id": items, "genre": genres}).write_parquet(folder / "items.parquet")
    frames = (frame.to_arrow() for frame in _frames(rows, pl.Series(items)))
    first = next(frames)
    with pq.ParquetWriter(folder / "events.parquet", first.schema) as file:
        for frame in (first, *frames):
            file.write_table(frame, row_group_size=_ROW_GROUP)


def _frames(rows: int, items: pl.Series) -> Iterator[pl.DataFrame]:
    rng = np.random.default_rng(0)
    taste, zeal = rng.normal(0.0, 0.7, ITEMS), rng.normal(0.0, 0.7, USERS)
    users, devices = (
        pl.Series([f"{name}-{n}" for n in range(count)]) for name, count in (("user", USERS), ("device", _DEVICES))
    )
    for start in range(0, rows, _ROWS_AT_ONCE):
        count = min(_ROWS_AT_ONCE, rows - start)
        user, item = _zipf(rng, USERS, 0.8, count), _zipf(rng, ITEMS, 0.9, count)
        chances = 1.0 / (1.0 + np.exp(1.5 - taste[item] - zeal[user]))
        yield pl.DataFrame(
            {
                "user_id": users[user],
                "item_id": items[item],
                "at": rng.permutation(_START + (start + np.arange(count)) * _DAYS_S // rows),
                "label": (rng.random(count) < chances).astype(np.int8),
                "device": devices[rng.integers(0, _DEVICES, count)],
            }
        )


def _zipf(rng: np.random.Generator, names: int, power: float, count: int) -> NDArray[np.int64]:
    weights = np.cumsum(np.arange(1.0, names + 1.0) ** -power)
    return np.searchsorted(weights / weights[-1], rng.random(count))
