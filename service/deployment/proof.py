"""Proves a loaded model before anybody is scored by it: warms it, and has it reproduce its bundle's goldens.

It runs in a thread beside those that serve, with a pause after each step.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, golden_tensors, read_goldens, repeated
from msd.contract.merge import candidates_of
from service.runtimes.choice import Together, expected_candidates
from service.runtimes.runtime import Scores
from service.scoring.model import Model

_LONGEST_S = 0.5


class Stopped(Exception):
    """The work is not wanted any more."""


class Pace:
    """Work beside requests rests after each step, so that they catch up. For one thread, which keeps the priority of
    those that serve: with less, and Python's lock, it would keep them waiting for as long as it waits for a core.

    A rest is `rest` times as long as the step before took by the clock, because a runtime may compute in threads of its
    own, and half a second at most.
    """

    def __init__(self, rest: float = 0.0, sleep: Callable[[float], object] | None = None) -> None:
        """`sleep` is how a rest is spent; by default until it is over or `stop` is called."""
        self._rest = rest
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A step begins here: what came before was waiting."""
        self._since = time.perf_counter()

    def pause(self) -> None:
        """A step has ended. Raises Stopped after `stop`."""
        if seconds := min(_LONGEST_S, self._rest * (time.perf_counter() - self._since)):
            self._sleep(seconds)
        self.check()
        self.begin()

    def check(self) -> None:
        """Raises Stopped after `stop`."""
        if self._stopped.is_set():
            raise Stopped

    def stop(self) -> None:
        """Ends the work at its next pause. Any thread may call it."""
        self._stopped.set()

    def sleep(self, seconds: float) -> bool:
        """Waits for so long, or until `stop`; whether to go on."""
        return not self._stopped.wait(seconds)


def prove(model: Model, max_candidates: int, pace: Pace) -> None:
    """Raises BundleError when a golden is not reproduced, or there is none; or what the model fails with."""
    engine, schema, runtime = model.engine, model.schema, model.runner.runtime
    tolerances = model.bundle.manifest.tolerances
    tolerance = tolerances.get(engine.key)
    if tolerance is None:
        known = ", ".join(tolerances) or "none"
        raise BundleError(f"the manifest has no tolerance for {engine.key!r}; it has: {known}")

    def run(tensors: Tensors) -> Scores:
        scores = runtime.run(tensors)
        pace.pause()
        return scores

    pace.begin()
    goldens, asked = _goldens(model, pace)
    for size in runtime.warm_up_sizes(max_candidates):
        run(repeated(schema, asked[0], size))
    _check(goldens, [run(tensors) for tensors in asked], tolerance, engine.key)
    if expected := expected_candidates(model.bundle, max_candidates):
        _check(goldens, _scores_among(model, expected, asked, run), tolerance, f"{expected} candidates")
    if model.runner.together:
        found = _scores_together(model, model.runner.together, asked, pace)
        _check(goldens, found, tolerance, "requests together")


async def prove_beside(models: Sequence[Model], max_candidates: int) -> None:
    """Proves models in a thread of their own, one after the other, without rests. Raises as `prove` does."""
    pace = Pace()

    def prove_all() -> None:
        for model in models:
            prove(model, max_candidates, pace)

    try:
        await asyncio.to_thread(prove_all)
    finally:
        pace.stop()


def _goldens(model: Model, pace: Pace) -> tuple[list[Golden], list[Tensors]]:
    """All of them, and what the model is asked for each."""
    path, users, items = model.bundle.path(GOLDENS), model.codecs["user"], model.codecs["item"]
    goldens, asked = [], []
    for golden in read_goldens(path):
        goldens.append(golden)
        asked.append(golden_tensors(model.schema, users, items, golden).tensors)
        pace.pause()
    if not goldens:
        raise BundleError(f"{path}: holds no goldens to verify the model with")
    return goldens, asked


def _scores_among(model: Model, count: int, asked: Sequence[Tensors], run: Callable[[Tensors], Scores]) -> list[Scores]:
    """The same with each candidate asked for so often that there are as many: a runtime may have a graph for that
    number."""
    found: list[Scores] = []
    for tensors, rows in zip(asked, candidates_of(model.schema, asked), strict=True):
        scores = run(repeated(model.schema, tensors, max(rows, count)))
        found.append({head: column[:rows] for head, column in scores.items()})
    return found


def _scores_together(model: Model, together: Together, asked: Sequence[Tensors], pace: Pace) -> list[Scores]:
    """The same, several in a run."""
    for size in together.warm_up_sizes():
        together.run([repeated(model.schema, asked[0], size)])
        pace.pause()
    found: list[Scores] = []
    for start in range(0, len(asked), together.most):
        found += together.run(asked[start : start + together.most])
        pace.pause()
    return found


def _check(goldens: Sequence[Golden], found: Sequence[Scores], tolerance: float, how: str) -> None:
    """Raises BundleError where one differs by more than the tolerance."""
    for number, (golden, scores) in enumerate(zip(goldens, found, strict=True), start=1):
        difference = _greatest_difference(golden, scores)
        if not difference <= tolerance:
            raise BundleError(
                f"golden {number} differs by {difference:.3g} from its expected score"
                f" (at most {tolerance:.3g} for {how})"
            )


def _greatest_difference(golden: Golden, scores: Scores) -> float:
    """Infinite when a head has no expected scores, or not one a candidate; NaN when a score is."""
    differences = []
    for head, column in scores.items():
        expected = golden.expected.get(head, [])
        if len(expected) != len(column):
            return float("inf")
        differences.append(np.max(np.abs(column - np.array(expected))))
    return float(np.max(differences))
