"""Proves a loaded model before it serves: warms it up, and reproduces its bundle's goldens. Runs in a background
thread, with a rest after each step.
"""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, golden_tensors, read_goldens, repeated
from service.runtimes.choice import expected_candidates
from service.runtimes.runtime import Scores
from service.scoring.model import Model

_LONGEST_S = 0.5


class Stopped(Exception):
    """The work was cancelled."""


class Pace:
    """Pace of background work: a rest after each step, so that requests catch up. For one thread.

    The thread keeps the serving threads' priority: with a lower one it would hold Python's lock while it waits for a
    core. The model's runs, which need no lock, have a lower one. A rest is `rest` times as long as the step took by the
    clock, because a runtime may compute in its own threads; half a second at most.
    """

    def __init__(self, rest: float = 0.0, sleep: Callable[[float], object] | None = None) -> None:
        """`sleep` waits for a rest; by default until it is over or `stop` is called."""
        self._rest = rest
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._since = time.perf_counter()

    def begin(self) -> None:
        """Begin a step; the time before it was waiting."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """End a step, and rest. Raises Stopped after `stop`."""
        if seconds := min(_LONGEST_S, self._rest * (time.perf_counter() - self._since)):
            self._sleep(seconds)
        self.check()
        self.begin()

    def check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """End the work at its next pause. For any thread."""
        self._stopped.set()

    def sleep(self, seconds: float) -> bool:
        """Wait for that time, or until `stop`; return whether to continue."""
        return not self._stopped.wait(seconds)


def prove(model: Model, max_candidates: int, pace: Pace) -> None:
    """Raise BundleError if a golden is not reproduced or there is none, or whatever the model raises."""
    runtime, engine, schema, manifest = model.runtime, model.engine, model.schema, model.bundle.manifest
    tolerance = manifest.tolerances.get(engine.key)
    if tolerance is None:
        known = ", ".join(manifest.tolerances) or "none"
        raise BundleError(f"the manifest has no tolerance for {engine.key!r}; it has: {known}")
    pace.begin()
    goldens, asked = _goldens(model, pace)

    def run(tensors: Tensors) -> Scores:
        scores = runtime.run(tensors, is_aside=True)
        pace.pause()
        return scores

    for size in runtime.warm_up_sizes(max_candidates):
        run(repeated(schema, asked[0], size))
    _check(goldens, [run(tensors) for tensors in asked], tolerance, engine.key)
    if count := expected_candidates(model.bundle, max_candidates):
        # A runtime may have a graph for this number.
        found: list[Scores] = []
        item = next(spec.name for spec in schema.tensors if spec.side == "item")
        for tensors in asked:
            rows = len(tensors[item])
            scores = run(repeated(schema, tensors, max(rows, count)))
            found.append({head: column[:rows] for head, column in scores.items()})
        _check(goldens, found, tolerance, f"{count} candidates")


def _goldens(model: Model, pace: Pace) -> tuple[list[Golden], list[Tensors]]:
    path, users, items = model.bundle.path(GOLDENS), model.codecs["user"], model.codecs["item"]
    goldens, asked = [], []
    for golden in read_goldens(path):
        goldens.append(golden)
        asked.append(golden_tensors(model.schema, users, items, golden).tensors)
        pace.pause()
    if not goldens:
        raise BundleError(f"{path}: holds no goldens to verify the model with")
    return goldens, asked


def _check(goldens: Sequence[Golden], found: Sequence[Scores], tolerance: float, how: str) -> None:
    for number, (golden, scores) in enumerate(zip(goldens, found, strict=True), start=1):
        difference = _greatest_difference(golden, scores)
        if not difference <= tolerance:
            raise BundleError(
                f"golden {number} differs by {difference:.3g} from its expected score"
                f" (at most {tolerance:.3g} for {how})"
            )


def _greatest_difference(golden: Golden, scores: Scores) -> float:
    """Return the largest difference: infinite if a head has no expected scores, or not one per candidate; NaN if a
    score is."""
    differences = []
    for head, column in scores.items():
        expected = golden.expected.get(head, [])
        if len(expected) != len(column):
            return float("inf")
        differences.append(np.max(np.abs(column - np.array(expected))))
    return float(np.max(differences))
