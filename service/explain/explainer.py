"""What each score of a request came of: the shares of groups of knowledge, and what each item of the history did.

Asks the model alone, by scoring the request again with parts of it missing. Each such run waits its turn and is taken
on or refused as any request's; scores themselves are made elsewhere, and before.
"""

import time

import numpy as np
from numpy.typing import NDArray

from msd.contract.assemble import Tensors, assemble, wanted_items
from msd.contract.request import CheckedRequest
from service.errors import DeadlineExceeded, ModelError
from service.explain.groups import GROUPS, Knowledge, unknown
from service.explain.shapley import shapley
from service.models.model import Model
from service.scoring.admission import Admission, Load
from service.scoring.reply import Explanation
from service.scoring.run_queue import RunQueue
from service.scoring.scorer import Scored, Terms

MAX_CLICKED = 50
_HEAD = "pctr"
# Of scores in fp32, log-odds beyond these say nothing.
_LEAST = 1e-7


class Explainer:
    """Explains what a `Scorer` has scored."""

    def __init__(self, queue: RunQueue, admission: Admission) -> None:
        self._queue = queue
        self._admission = admission

    async def explain(self, model: Model, request: CheckedRequest, scored: Scored, terms: Terms) -> Explanation:
        """Raises DeadlineExceeded, Overloaded, ModelError, or ClientGone where `terms` say so."""
        if scored.basis.is_partial:
            raise DeadlineExceeded("the time that the request may take did not suffice to score and explain it")
        started = time.perf_counter()
        basis, codecs = scored.basis, model.codecs
        tensors = assemble(model.schema, request, basis.at, basis.user, basis.items).tensors
        nothing = unknown(model.schema, codecs["user"], codecs["item"], basis.at)
        knowledge = Knowledge(model.schema, tensors, nothing)
        score = log_odds(scored.scores[_HEAD])
        values = await self._values(model, knowledge, score, terms)
        shares = dict(zip(knowledge.groups, shapley(values), strict=True))
        clicked = _clicked(model, request, scored)
        effects = np.zeros((len(score), min(len(clicked), MAX_CLICKED)))
        for column, place in enumerate(range(len(clicked))[-MAX_CLICKED:]):
            effects[:, column] = score - await self._run(model, knowledge.without_clicked(place), len(score), terms)
        return Explanation(
            base=float(1 / (1 + np.exp(-values[0, 0]))),
            shares={group: shares.get(group, np.zeros(len(score))) for group in GROUPS},
            history=clicked[-MAX_CLICKED:],
            effects=effects,
            seconds=time.perf_counter() - started,
        )

    async def _values(
        self, model: Model, knowledge: Knowledge, score: NDArray[np.float64], terms: Terms
    ) -> NDArray[np.float64]:
        """[2^n, N] log-odds with each choice of the n groups that there are; with all of them it is the score's own."""
        groups = knowledge.groups
        values = np.empty((1 << len(groups), len(score)))
        values[-1] = score
        for chosen in range(len(values) - 1):
            kept = [group for bit, group in enumerate(groups) if chosen >> bit & 1]
            values[chosen] = await self._run(model, knowledge.of(kept), len(score), terms)
        return values

    async def _run(self, model: Model, tensors: Tensors, rows: int, terms: Terms) -> NDArray[np.float64]:
        """[N] log-odds."""
        load = Load(rows, model.runner.turn_s.of(rows, 0.0))
        self._admission.enter(load, terms.deadline)
        try:
            ran = await self._queue.run(model.runner, tensors, rows, terms.deadline, terms.is_gone)
        finally:
            self._admission.leave(load)
        found = log_odds(ran.result[_HEAD])
        if not np.isfinite(found).all():
            raise ModelError(
                "the model gave a score that is not a finite number where parts of the request are missing"
            )
        return found


def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """[N]"""
    within = np.clip(probability.astype(np.float64), _LEAST, 1.0 - _LEAST)
    return np.log(within) - np.log1p(-within)


def _clicked(model: Model, request: CheckedRequest, scored: Scored) -> list[str]:
    """The ids of the history as the model saw it: those that have rows, the last of them."""
    count = len(request.ids)
    ids = wanted_items(request, scored.basis.user)[count:]
    found = scored.basis.items.found[count:].tolist()
    return [one for one, is_found in zip(ids, found, strict=True) if is_found][-model.schema.history.length :]
