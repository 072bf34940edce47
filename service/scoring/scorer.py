"""From a checked request to its scores: rows, tensors, one run of the model; and what of it is not first-rate.

Knows neither HTTP nor the form of a reply, nor when the model runs.
"""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import structlog

from msd.contract.assemble import Rung, Tensors, UserRung, assemble, cut, wanted_items
from msd.contract.log import Basis
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows, RowSide
from msd.contract.schema import FeatureSchema
from service.errors import ModelError, StoreError
from service.models.model import Model
from service.runtimes.runtime import Scores
from service.scoring.admission import Admission, Load
from service.scoring.partial import declared, spread
from service.scoring.run_queue import RunQueue
from service.telemetry.metrics import Metrics

# Between two lines of the log on reads that fail.
_SAY_AGAIN_S = 1.0


class Terms(NamedTuple):
    """Until when a request is to be scored, by `time.perf_counter`, and whether its client has left."""

    deadline: float
    is_gone: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [N] by head, in the request's order, the degradation to declare, what they were made from, and how long
    the stages took."""

    scores: Scores
    degraded_candidates: dict[str, Rung]
    degraded_user: UserRung | None
    basis: Basis
    rows_s: float = 0.0
    queue_s: float = 0.0
    run_s: float = 0.0


RowsOf = Callable[[RowSide, Sequence[str]], Awaitable[Rows]]


class Live(Protocol):
    """Brings rows up to date by what happened since they were written."""

    async def fetch(
        self, schema: FeatureSchema, request: CheckedRequest, at: float, rows_of: RowsOf, deadline: float
    ) -> tuple[Rows, Rows]:
        """The rows of the user, and of candidates and history (`wanted_items`)."""
        ...


class Fills(Protocol):
    """Makes something of candidates without a row."""

    async def fill(self, model: Model, request: CheckedRequest, items: Rows, deadline: float) -> Rows:
        """The rows of `wanted_items`, with those that could be made in time."""
        ...


class Scorer:
    """Scores requests, each with the model that it is to be scored by. Deadlines are of `time.perf_counter`."""

    def __init__(
        self,
        queue: RunQueue,
        admission: Admission,
        metrics: Metrics,
        live: Live | None = None,
        fills: Fills | None = None,
    ) -> None:
        self._queue = queue
        self._admission = admission
        self._metrics = metrics
        self._live = live
        self._fills = fills
        self._log = structlog.get_logger("msd.scorer")
        self._unsaid = 0
        self._say_again_at = 0.0

    async def score(self, model: Model, request: CheckedRequest, terms: Terms) -> Scored:
        """Raises Overloaded, DeadlineExceeded, ModelError, or ClientGone where `terms` say so.

        A store that fails does not: it degrades the scores. Nor does a deadline that is near: of what cannot be scored
        before it, the prior is given.
        """
        rows, deadline = len(request.ids), terms.deadline
        load = Load(rows, model.runner.turn_s.of(rows, 0.0))
        self._admission.enter(load, deadline)
        try:
            started = time.perf_counter()
            at = time.time() if request.at is None else request.at
            user, items = await self._fetch(model, request, at, deadline)
            assembled = assemble(model.schema, request, at, user, items)
            rows_s = time.perf_counter() - started
            self._metrics.stages["rows"].observe(rows_s)

            def first(count: int) -> Tensors:
                return cut(model.schema, assembled.tensors, count, model.codecs["item"].unpack([None]).records, at)

            ran = await self._queue.run(model.runner, assembled.tensors, rows, deadline, terms.is_gone, first)
        finally:
            self._admission.leave(load)
        # One that is not finite makes the sum so: sums cost half of looking at each.
        if not all(math.isfinite(column.sum()) for column in ran.result.values()):
            raise ModelError("the model gave a score that is not a finite number for this request")
        scores, degraded, degraded_user = ran.result, assembled.degraded_candidates, assembled.degraded_user
        if ran.is_partial:
            rows = len(scores[model.bundle.manifest.heads[0]]) - 1
            scores, degraded = spread(scores, request.ids), declared(scores, request.ids, degraded)
        if degraded or degraded_user:
            self._metrics.degraded(degraded.values(), degraded_user)
        basis = Basis(at, user, items, rows, ran.is_partial, ran.together)
        return Scored(scores, degraded, degraded_user, basis, rows_s, ran.queue_s, ran.run_s)

    async def tensors(self, model: Model, request: CheckedRequest, at: float, deadline: float) -> Tensors:
        """What another model than the one that scores the request would have scored it from."""
        return assemble(model.schema, request, at, *await self._fetch(model, request, at, deadline)).tensors

    async def _fetch(self, model: Model, request: CheckedRequest, at: float, deadline: float) -> tuple[Rows, Rows]:
        if self._live is not None:
            rows_of = partial(self._rows, model, deadline)
            user, items = await self._live.fetch(model.schema, request, at, rows_of, deadline)
        else:
            user = await self._rows(model, deadline, "user", [request.user_id])
            items = await self._rows(model, deadline, "item", wanted_items(request, user))
        if request.item_texts and self._fills is not None:
            items = await self._fills.fill(model, request, items, deadline)
        return user, items

    async def _rows(self, model: Model, deadline: float, side: RowSide, ids: Sequence[str]) -> Rows:
        """What the store has, or what it has all the same when it fails."""
        try:
            rows = await model.store.get(side, ids, deadline)
        except StoreError as error:
            self._note(error)
            if error.rows is not None:
                return error.rows
            return model.codecs[side].unpack([None] * len(ids))._replace(stale=np.zeros(len(ids), bool))
        self._metrics.damaged(side, rows.damaged)
        return rows

    def _note(self, error: StoreError) -> None:
        """Counts a read that failed. The log has a line for many: when there are any, there are many."""
        self._metrics.store_errors.inc()
        self._unsaid += 1
        now = time.perf_counter()
        if now >= self._say_again_at:
            self._log.warning("store_error", error=str(error), reads=self._unsaid)
            self._unsaid, self._say_again_at = 0, now + _SAY_AGAIN_S
