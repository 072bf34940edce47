"""Proves a loaded model before anybody is scored by it: warms it, and has it reproduce its bundle's goldens.

Its runs wait their turn in the queue, between those of requests.
"""

import time

import numpy as np

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, golden_tensors, read_goldens
from service.lineup.model import Model
from service.run_queue import RunQueue
from service.runtimes.runtime import Scores

_PATIENCE_S = 600.0


class Proof:
    """The proof of one model."""

    def __init__(self, model: Model, queue: RunQueue, max_candidates: int) -> None:
        self._model = model
        self._queue = queue
        self._max_candidates = max_candidates

    async def run(self) -> None:
        """Raises BundleError when a golden is not reproduced, or there is none; or what the model fails with."""
        model, engine = self._model, self._model.engine
        tolerances = model.bundle.manifest.tolerances
        tolerance = tolerances.get(engine.key)
        if tolerance is None:
            known = ", ".join(tolerances) or "none"
            raise BundleError(f"the manifest has no tolerance for {engine.key!r}; it has: {known}")
        number = 0
        path = model.bundle.path(GOLDENS)
        for number, golden in enumerate(read_goldens(path), start=1):
            tensors = golden_tensors(model.schema, model.codecs["user"], model.codecs["item"], golden).tensors
            if number == 1:
                await self._grow(tensors)
            difference = _greatest_difference(golden, await self._scores(tensors))
            if not difference <= tolerance:
                raise BundleError(
                    f"golden {number} differs by {difference:.3g} from what the bundle expects"
                    f" (at most {tolerance:.3g} for {engine.key})"
                )
        if number == 0:
            raise BundleError(f"{path}: holds no goldens to prove the model by")

    async def _grow(self, tensors: Tensors) -> None:
        """Runs with the numbers of candidates that the runtime names, so that no request pays for the first time."""
        sides = {spec.name: spec.side for spec in self._model.schema.tensors}
        for size in self._model.runner.runtime.warm_up_sizes(self._max_candidates):
            await self._scores(
                {
                    name: np.resize(tensor, (size, *tensor.shape[1:])) if sides[name] == "item" else tensor
                    for name, tensor in tensors.items()
                }
            )

    async def _scores(self, tensors: Tensors) -> Scores:
        count = next(len(tensors[spec.name]) for spec in self._model.schema.tensors if spec.side == "item")
        until = time.perf_counter() + _PATIENCE_S
        ran = await self._queue.run(self._model.runner, tensors, count, until, lambda: False)
        return ran.scores


def _greatest_difference(golden: Golden, scores: Scores) -> float:
    """Infinite when a head has no expected scores, or not one a candidate; NaN when a score is."""
    differences = []
    for head, column in scores.items():
        expected = golden.expected.get(head, [])
        if len(expected) != len(column):
            return float("inf")
        differences.append(np.max(np.abs(column - np.array(expected))))
    return float(np.max(differences))
