"""One night of many logged impressions, for its time, CPU and memory: rows of a few thousand real requests again and
again, under new names, with clicks by a law that has moved."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lab.nights.show import CONFIG, serve_first
from lab.nights.world import PODS, World
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic
from msd.contract.log import EVENTS, REQUESTS
from msd.demo.service import command_of
from msd.feedback.files import EVENT_TYPES

_DAY_S = 86_400.0
_PAST, _SEEN = 100_000, 5_000  # at most
_FILE = 4_000
"""Requests in a file of a log, about as many as services write."""


def run_large(folder: Path, impressions: int, epochs: int, hear: Callable[[str], None]) -> dict[str, Any]:
    """Return what the night's record says of its costs. Its verdict means nothing, because logged states do not move.
    The folder must be new. Raises MsdError."""
    world, start = World(folder), time.time() - _DAY_S
    hear("the first bundle")
    serve_first(world, world.write_past(min(impressions, _PAST), start), epochs)
    hear("real requests")
    with world.services():
        world.visits(min(impressions, _SEEN))
    (folder / "logs").rename(folder / "seen")
    world.drift()
    hear(f"the log of {impressions} impressions")
    _write_logs(world, start, impressions)
    write_text_atomic(folder / "nightly.toml", CONFIG.format(epochs=epochs, days=2))
    hear("the night")
    with (folder / "night.log").open("wb") as log:
        command = command_of(("nightly", folder / "nightly.toml", "--night", "large"))
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    record = json.loads((folder / "work/nights/large/nightly.json").read_bytes())
    if record["status"] == "failed":
        raise MsdError(f"the night failed: {record['why']}; its output: {folder / 'night.log'}")
    sizes = [file.stat().st_size for file in (folder / "logs").rglob("*.parquet")]
    kept = ("counts", "steps", "seconds")
    return {"impressions": impressions, "log_bytes": sum(sizes), **{key: record[key] for key in kept}}


def _write_logs(world: World, start: float, impressions: int) -> None:
    """Write a day's log of the pods. The first candidate of each request is shown."""
    rng = np.random.default_rng(0)
    seen = pl.concat([pl.read_parquet(file) for file in (world.folder / "seen").rglob(f"{REQUESTS}-*.parquet")])
    devices = np.array([int(json.loads(body)["context"]["device"][1:]) for body in seen["request"]])
    chances = world.chances(seen["item_ids"].list.first().str.slice(1).cast(pl.Int64).to_numpy(), devices)
    pods = [world.folder / "logs" / name for name in PODS]
    for pod in pods:
        pod.mkdir(parents=True)
    size = min(_FILE, -(-impressions // len(pods)))
    for number, place in enumerate(range(0, impressions, size)):
        count = min(size, impressions - place)
        at = start + _DAY_S * np.sort(rng.uniform(place, place + count, count)) / impressions
        rows = rng.integers(seen.height, size=count)
        names = [f"{number:016x}{row:016x}" for row in range(count)]
        requests = seen[rows].with_columns(pl.Series("request_id", names), received_at=at, at=at)
        pod = pods[number % len(pods)]
        requests.write_parquet(pod / f"{REQUESTS}-{number:06}.parquet")
        _events(requests, rng.random(count) < chances[rows]).write_parquet(pod / f"{EVENTS}-{number:06}.parquet")


def _events(requests: pl.DataFrame, is_clicked: NDArray[np.bool_]) -> pl.DataFrame:
    shown = requests.select(
        pl.col("request_id").alias("event_id") + "-impression",
        pl.lit("impression").alias("type"),
        "user_id",
        pl.col("item_ids").list.first().alias("item_id"),
        pl.col("at") + 1,
        "request_id",
        pl.lit(None, pl.Int32).alias("position"),
    )
    clicks = shown.filter(pl.Series(is_clicked)).with_columns(
        pl.col("request_id").alias("event_id") + "-click", pl.lit("click").alias("type"), pl.col("at") + 30
    )
    return pl.concat([pl.DataFrame(schema=EVENT_TYPES), shown, clicks], how="diagonal")
