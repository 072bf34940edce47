"""Proves a loaded model before anybody is scored by it: warms it, and has it reproduce its bundle's goldens.

All of it is done aside, in short steps, as the caller has it, beside the runs of requests.
"""

from collections.abc import Iterator

import numpy as np

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS
from msd.contract.errors import BundleError
from msd.contract.golden import Golden, golden_tensors, read_goldens, repeated
from msd.contract.merge import candidates_of
from service.deployment.aside import Aside
from service.models.model import Model
from service.runtimes.choice import Together, expected_candidates
from service.runtimes.runtime import Scores


class Proof:
    """The proof of one model."""

    def __init__(self, model: Model, aside: Aside, max_candidates: int) -> None:
        self._model = model
        self._aside = aside
        self._max_candidates = max_candidates

    async def run(self) -> None:
        """Raises BundleError when a golden is not reproduced, or there is none; or what the model fails with."""
        model, engine = self._model, self._model.engine
        tolerances = model.bundle.manifest.tolerances
        tolerance = tolerances.get(engine.key)
        if tolerance is None:
            known = ", ".join(tolerances) or "none"
            raise BundleError(f"the manifest has no tolerance for {engine.key!r}; it has: {known}")
        goldens, asked = await self._goldens()
        for size in model.runner.runtime.warm_up_sizes(self._max_candidates):
            await self._scores(repeated(self._model.schema, asked[0], size))
        alone = [await self._scores(tensors) for tensors in asked]
        _check(goldens, alone, tolerance, engine.key)
        if expected := expected_candidates(model.bundle, self._max_candidates):
            _check(goldens, await self._scores_among(expected, asked), tolerance, f"{expected} candidates")
        if model.runner.together:
            _check(goldens, await self._scores_together(model.runner.together, asked), tolerance, "requests together")

    async def _goldens(self) -> tuple[list[Golden], list[Tensors]]:
        """All of them, and what the model is asked for each."""
        path = self._model.bundle.path(GOLDENS)
        lines, goldens, asked = read_goldens(path), [], []
        while (read := await self._aside.do(self._next, lines)) is not None:
            goldens.append(read[0])
            asked.append(read[1])
        if not goldens:
            raise BundleError(f"{path}: holds no goldens to prove the model by")
        return goldens, asked

    def _next(self, lines: Iterator[Golden]) -> tuple[Golden, Tensors] | None:
        golden = next(lines, None)
        if golden is None:
            return None
        users, items = self._model.codecs["user"], self._model.codecs["item"]
        return golden, golden_tensors(self._model.schema, users, items, golden).tensors

    async def _scores_among(self, count: int, asked: list[Tensors]) -> list[Scores]:
        """The same with each candidate asked for so often that there are as many: a runtime may have a graph for that
        number."""
        found: list[Scores] = []
        for tensors, rows in zip(asked, candidates_of(self._model.schema, asked), strict=True):
            scores = await self._scores(repeated(self._model.schema, tensors, max(rows, count)))
            found.append({head: column[:rows] for head, column in scores.items()})
        return found

    async def _scores_together(self, together: Together, asked: list[Tensors]) -> list[Scores]:
        """The same, several in a run."""
        for size in together.warm_up_sizes():
            await self._aside.do(together.run, [repeated(self._model.schema, asked[0], size)])
        found: list[Scores] = []
        for start in range(0, len(asked), together.most):
            found += await self._aside.do(together.run, asked[start : start + together.most])
        return found

    async def _scores(self, tensors: Tensors) -> Scores:
        return await self._aside.do(self._model.runner.runtime.run, tensors)


def _check(goldens: list[Golden], found: list[Scores], tolerance: float, how: str) -> None:
    """Raises BundleError where one differs by more than the tolerance."""
    for number, (golden, scores) in enumerate(zip(goldens, found, strict=True), start=1):
        difference = _greatest_difference(golden, scores)
        if not difference <= tolerance:
            raise BundleError(
                f"golden {number} differs by {difference:.3g} from what the bundle expects"
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
