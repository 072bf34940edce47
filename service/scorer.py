"""From a checked request to its scores: rows, tensors, one run of the model; and what of it is not first-rate.

Knows neither HTTP nor the form of a reply. The model runs in a thread of its own, one run at a time.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import structlog

from msd.contract.assemble import Rung, Tensors, assemble, wanted_items
from msd.contract.bundle import Bundle
from msd.contract.request import CheckedRequest
from msd.contract.rows import RowCodec, Rows
from service.errors import DeadlineExceeded, ModelError, Overloaded
from service.metrics import Metrics
from service.runtimes.runtime import Runtime, Scores
from service.stores.store import RowStore, StoreError


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [N] by head, in the request's order, and the degradation to declare."""

    scores: Scores
    degraded_candidates: dict[str, Rung]
    user_unknown: bool


class Scorer:
    """Scores requests with one bundle's model and rows. `deadline_s` counts from the moment a request is taken on."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        store: RowStore,
        metrics: Metrics,
        *,
        max_queued_rows: int,
        deadline_s: float,
    ) -> None:
        self._schema = bundle.schema
        self._users = RowCodec(bundle.schema, "user", bundle.bundle_id)
        self._items = RowCodec(bundle.schema, "item", bundle.bundle_id)
        self._runtime = runtime
        self._store = store
        self._metrics = metrics
        self._max_queued_rows = max_queued_rows
        self._queued_rows = 0
        self._deadline_s = deadline_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._log = structlog.get_logger("msd.scorer")

    async def score(self, request: CheckedRequest) -> Scored:
        """Raises Overloaded, DeadlineExceeded or ModelError. A store that fails does not: it degrades the scores."""
        with self._admitted(len(request.ids)):
            deadline = time.perf_counter() + self._deadline_s
            with self._metrics.stage("rows"):
                user, items = await self._fetch(request)
                at = time.time() if request.at is None else request.at
                assembled = assemble(self._schema, request, at, user, items)
            scores = await self.run(assembled.tensors, deadline)
        if not all(np.isfinite(column).all() for column in scores.values()):
            raise ModelError("the model gave a score that is not a finite number for this request")
        self._metrics.degraded(assembled.degraded_candidates.values(), assembled.user_unknown)
        return Scored(scores, assembled.degraded_candidates, assembled.user_unknown)

    async def run(self, tensors: Tensors, deadline: float) -> Scores:
        """One run of the model in its thread; it does not start after `deadline` (of `time.perf_counter`)."""
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._run, tensors, time.perf_counter(), deadline
        )

    def close(self) -> None:
        """Lets the run at hand end, and starts no other."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    @contextmanager
    def _admitted(self, rows: int) -> Iterator[None]:
        if self._queued_rows + rows > self._max_queued_rows:
            raise Overloaded(f"{self._queued_rows} candidates are waiting; with these {rows} there would be too many")
        self._queued_rows += rows
        self._metrics.queued_rows.set(self._queued_rows)
        try:
            yield
        finally:
            self._queued_rows -= rows
            self._metrics.queued_rows.set(self._queued_rows)

    async def _fetch(self, request: CheckedRequest) -> tuple[Rows, Rows]:
        try:
            user = await self._store.get("user", [request.user_id])
            items = await self._store.get("item", wanted_items(request, user))
        except StoreError as error:
            self._metrics.store_errors.inc()
            self._log.warning("store_error", error=str(error))
            user = self._users.unpack([None])
            return user, self._items.unpack([None] * len(wanted_items(request, user)))
        self._metrics.damaged("user", user.damaged)
        self._metrics.damaged("item", items.damaged)
        return user, items

    def _run(self, tensors: Tensors, queued_at: float, deadline: float) -> Scores:
        started = time.perf_counter()
        self._metrics.observe_stage("queue", started - queued_at)
        if started > deadline:
            raise DeadlineExceeded(f"the request waited {self._deadline_s * 1000:g} ms for its turn")
        try:
            return self._runtime.run(tensors)
        finally:
            self._metrics.observe_stage("run", time.perf_counter() - started)
