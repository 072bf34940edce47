"""Days of traffic, each followed by `msd nightly`: quiet, drift, bots, a fad that is over before the rollout ends."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lab.nights.world import World
from msd.contract.errors import MsdError
from msd.contract.files import write_text_atomic
from msd.demo.service import command_of
from msd.nightly.rollout import EXPERIMENT

CONFIG = """logs = ["logs"]
dataset = "data"
work = "work"
bundles = "bundles"
semantics = false
train = ["--epochs", "{epochs}"]
export = ["--requests", "50"]

[window]
days = {days}
settle_hours = 0  # a day takes a minute

[gate]
latency = 1_000  # the machine is shared
"""
_ROLLOUT = """
[rollout]
shares = [0.5]
hold_minutes = 1.5
most_hours = 0.2
clicks = {clicks}
"""


class Day(NamedTuple):
    """One day: how far the law moves at its beginning and at its end, the share of bots, and the night's status. The
    last has no night."""

    name: str
    moves: int = 0
    moves_back: int = 0
    bots: float = 0.0
    expected: str | None = None


DAYS = (
    Day("quiet", expected="kept"),
    Day("drift", moves=1, expected="promoted"),
    Day("bots", bots=0.9, expected="kept"),
    Day("fad", moves=1, moves_back=-1, expected="kept"),
    Day("after"),
)


def run_nights(
    folder: Path, impressions: int, epochs: int, hear: Callable[[str], None], days: Sequence[Day] = DAYS
) -> dict[str, Any]:
    """Return the figures by day. The folder must be new. Raises MsdError."""
    if folder.exists() and any(folder.iterdir()):
        raise MsdError(f"{folder}: holds other things; name a new folder")
    world, found = World(folder), list[dict[str, Any]]()
    hear("the first bundle")
    serve_first(world, world.write_past(3 * impressions, time.time()), epochs)
    for day in days:
        hear(f"day {day.name}")
        world.drift(day.moves)
        began = time.time()
        served = (world.bundles / "current").resolve().name
        with world.services():  # at its end, all of the log is written
            shown = world.visits(impressions, day.bots)
        figures: dict[str, Any] = {"day": day.name, "served": served, "expected": day.expected}
        figures |= {"scores": shown.measured(), "unscored": shown.unscored}
        world.drift(day.moves_back)
        if day.expected:
            hear(f"night {day.name}")
            # The window is this day alone, because a law that has moved contradicts the days before.
            options = {"epochs": epochs, "clicks": impressions // 10, "days": (time.time() - began) / 86_400}
            write_text_atomic(folder / "nightly.toml", (CONFIG + _ROLLOUT).format(**options))
            with world.services():
                figures["night"] = _night(world, day.name)
        found.append(figures)
    return {"impressions": impressions, "days": found}


def _night(world: World, name: str) -> dict[str, Any]:
    """Return what the night's record says. Visitors come while a bundle is rolled out."""
    command = command_of(("nightly", world.folder / "nightly.toml", "--night", name))
    with (world.folder / f"night-{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if (world.bundles / EXPERIMENT).exists():
                    world.visits(100)
                else:
                    time.sleep(0.5)
        finally:
            process.kill()
    record = json.loads((world.folder / "work/nights" / name / "nightly.json").read_bytes())
    kept = ("status", "why", "notes", "counts", "steps", "seconds")
    stages = [{"share": one["share"], "checks": one["checks"]} for one in record["rollout"]]
    return {key: record[key] for key in kept} | {"rollout": stages, "verdict": record["verdict"]}


def serve_first(world: World, data: Path, epochs: int) -> None:
    """Make the bundle that is served at the beginning. Raises MsdError."""
    model = world.folder / "model"
    _call("train", data, model, "--no-semantics", "--epochs", epochs)
    _call("export", data, model, world.bundles / "first", "--requests", "50")
    _call("rollback", world.bundles, "--to", "first")


def _call(*arguments: object) -> None:
    done = subprocess.run(command_of(tuple(map(str, arguments))), capture_output=True, text=True, check=False)
    if done.returncode:
        raise MsdError(f"msd {arguments[0]} failed: {done.stdout[-500:]}{done.stderr[-1_000:]}")
