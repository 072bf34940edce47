"""From a checked request to its scores: rows, tensors, one run of the model; and what of it is not first-rate.

Knows neither HTTP nor the form of a reply, nor when the model runs.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from msd.contract.assemble import Rung, UserRung, assemble, wanted_items
from msd.contract.log import Basis
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows, RowSide
from service.errors import ModelError
from service.lineup.model import Model
from service.live.live_rows import LiveRows
from service.metrics import Metrics
from service.run_queue import RunQueue
from service.runtimes.runtime import Scores
from service.stores.store import StoreError


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


class Scorer:
    """Scores requests, each with the model that it is to be scored by. `deadline_s` counts from its arrival."""

    def __init__(self, queue: RunQueue, metrics: Metrics, deadline_s: float, live: LiveRows | None = None) -> None:
        self._queue = queue
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._live = live
        self._log = structlog.get_logger("msd.scorer")

    def check_door(self) -> None:
        """Raises Overloaded when nothing can be taken on, whatever it is."""
        self._queue.check_door()

    async def score(self, model: Model, request: CheckedRequest, arrived: float, is_gone: Callable[[], bool]) -> Scored:
        """Raises Overloaded, DeadlineExceeded, ModelError, or ClientGone where `is_gone` says so.

        A store that fails does not: it degrades the scores. `arrived` is of `time.perf_counter`.
        """
        rows = len(request.ids)
        deadline = arrived + self._deadline_s
        expected_s = self._queue.admit(model.runner, rows)
        try:
            self._queue.check(deadline, is_gone)
            started = time.perf_counter()
            at = time.time() if request.at is None else request.at
            user, items = await self._fetch(model, request, at)
            assembled = assemble(model.schema, request, at, user, items)
            rows_s = time.perf_counter() - started
            self._metrics.stages["rows"].observe(rows_s)
            ran = await self._queue.run(model.runner, assembled.tensors, rows, deadline, is_gone)
        finally:
            self._queue.leave(rows, expected_s)
        # One that is not finite makes the sum so: sums cost half of looking at each.
        if not all(math.isfinite(column.sum()) for column in ran.scores.values()):
            raise ModelError("the model gave a score that is not a finite number for this request")
        degraded, degraded_user = assembled.degraded_candidates, assembled.degraded_user
        if degraded or degraded_user:
            self._metrics.degraded(degraded.values(), degraded_user)
        basis = Basis(at, user, items, rows, together=ran.together)
        return Scored(ran.scores, degraded, degraded_user, basis, rows_s, ran.queue_s, ran.run_s)

    async def _fetch(self, model: Model, request: CheckedRequest, at: float) -> tuple[Rows, Rows]:
        if self._live is not None:
            return await self._live.fetch(model.schema, request, at, partial(self._rows, model))
        user = await self._rows(model, "user", [request.user_id])
        return user, await self._rows(model, "item", wanted_items(request, user))

    async def _rows(self, model: Model, side: RowSide, ids: Sequence[str]) -> Rows:
        """What the store has, or what it has all the same when it fails."""
        try:
            rows = await model.store.get(side, ids)
        except StoreError as error:
            self._metrics.store_errors.inc()
            self._log.warning("store_error", error=str(error))
            if error.rows is not None:
                return error.rows
            return model.codecs[side].unpack([None] * len(ids))._replace(stale=np.zeros(len(ids), bool))
        self._metrics.damaged(side, rows.damaged)
        return rows
