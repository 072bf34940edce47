"""All models in all worlds: each cell is made once, and kept in the output folder with what it was made from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.benchmark.predictions import keep, kept
from lab.worlds.bench import Bench, open_bench
from lab.worlds.cell import LAW, OURS, cell_of, figures_of
from lab.worlds.law import Floats
from lab.worlds.world import WORLDS, Given
from msd.contract.files import write_text_atomic
from msd.step import fingerprint_of
from msd.training.folder import FORMAT as RANKER_FORMAT

# Increment with any change of the laboratory's own models, after which they would predict something else.
FORMAT = 3
_SURE = 1.96
Told = Callable[[str], None]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Scope:
    """Worlds and models to measure, and the number of auctions."""

    worlds: Sequence[str]
    models: Sequence[str]
    auctions: int = 2_000


def run_worlds(given: Given, out: Path, scope: Scope, told: Told) -> dict[str, Figures]:
    """Return by world `models`, figures by model, and `gain`, that of ours over the strongest. Cells that `out` has are
    read; so an interrupted run resumes. Raises WorldError."""
    return {name: _world(name, given, out / name, scope, told) for name in scope.worlds}


def _world(name: str, given: Given, out: Path, scope: Scope, told: Told) -> Figures:
    told(f"{name}: preparing")
    world = WORLDS[name]
    bench = open_bench(world.ready(given, out), world.within, scope.auctions)
    models: dict[str, Figures] = {}
    earned: dict[str, Floats] = {}
    for model in scope.models:
        if model == LAW and bench.auctions is None:
            continue
        told(f"{name}: {model}")
        found = _cell(model, bench, out / "models" / model, scope.auctions)
        models[model] = figures_of(bench, found)
        write_text_atomic(out / "models" / model / "figures.json", json.dumps(models[model], indent=2) + "\n")
        if bench.auctions:
            earned[model] = bench.auctions.earned(found["candidates"] * found["conversions"])
    return {"rows": bench.data.events.height, "test_rows": len(bench.test), "models": models, "gain": _gain(earned)}


def _cell(model: str, bench: Bench, folder: Path, auctions: int) -> dict[str, Floats]:
    """Return a cell's predictions by view, and its `seconds`."""
    trained = [RANKER_FORMAT] if model == OURS else []
    run = fingerprint_of(FORMAT, *trained, bench.data.fingerprint, auctions, model)
    path = folder / "predictions.npz"
    if (found := kept(path, run)) is None:
        found = cell_of(model)(bench, folder)
        keep(path, run, found)
    return {**found.by_view, "seconds": np.array(found.seconds)}


def _gain(earned: dict[str, Floats]) -> Figures | None:
    """Return the share by which the first place earns more with ours than with the strongest of the other models, with
    its 95 % interval over the same auctions; None if either was not measured."""
    others = {model: one for model, one in earned.items() if model not in (OURS, LAW)}
    if not others or OURS not in earned:
        return None
    best = max(others, key=lambda model: float(others[model].mean()))
    level = float(others[best].mean())
    lead = (earned[OURS] - others[best]) / level
    error = _SURE * float(lead.std(ddof=1)) / float(np.sqrt(len(lead)))
    return {
        "over": best,
        "first_ecpm": float(lead.mean()),
        "ci95": [float(lead.mean()) - error, float(lead.mean()) + error],
    }
