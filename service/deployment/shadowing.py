"""Scores requests again with shadows on spare capacity, and measures the distance of the scores.

It runs after the reply, one request at a time, the model at low priority, and only while none waits; skipped requests
are counted. A failure here affects no request.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import structlog
from numpy.typing import NDArray

from msd.contract.request import parse_request
from service.scoring.answer import Served
from service.scoring.deployment import Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames, Given
from service.scoring.model import Model
from service.scoring.reply import log_odds
from service.telemetry.metrics import Metrics

_PATIENCE_S = 1.0
_HEAD = "pctr"


class Shadowing:
    """Passes replies to the shadows of their deployment."""

    def __init__(self, frames: Frames, engine: ScoringEngine, metrics: Metrics) -> None:
        self._frames = frames
        self._engine = engine
        self._metrics = metrics
        self._comparing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._logged_generation = -1
        self._log = structlog.get_logger("msd.shadow")

    def wants(self, deployment: Deployment, request_id: str) -> bool:
        return self._is_free

    def follow(self, deployment: Deployment, served: Served | None) -> None:
        """Have shadows score an answered request, or count it as skipped."""
        is_whole = served is not None and not served.basis.is_partial
        if served is None or not is_whole or not (self._is_free and self._engine.is_idle):
            self._metrics.shadows["busy"].inc()
        else:
            self._comparing = asyncio.get_running_loop().create_task(self._compare(deployment, served))

    @property
    def _is_free(self) -> bool:
        return self._comparing is None or self._comparing.done()

    async def close(self) -> None:
        if self._comparing is not None:
            self._comparing.cancel()
            await asyncio.gather(self._comparing, return_exceptions=True)
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _compare(self, deployment: Deployment, served: Served) -> None:
        for shadow in deployment.shadows:
            try:
                found = await self._scores(shadow.model, served)
            except Exception as error:
                self._metrics.shadows["failed"].inc()
                # Once per deployment: what fails for one request fails for others.
                if self._logged_generation != deployment.generation:
                    self._logged_generation = deployment.generation
                    self._log.warning("shadow_failed", shadow=shadow.name, reason=f"{type(error).__name__}: {error}")
            else:
                self._metrics.shadow_shift(shadow.slot, shift(served.scores[_HEAD], found))
                self._metrics.shadows["scored"].inc()

    async def _scores(self, model: Model, served: Served) -> NDArray[np.float32]:
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._thread)
        request = await in_thread(self._frames.read, model, served.body)
        if request is None:
            # Another schema may have other features.
            parse_request(served.body, model.schema)
            raise ValueError("the native core refuses the request")
        given = await self._frames.fetch(model, request, time.perf_counter() + _PATIENCE_S, served.basis.at)
        return await in_thread(self._run, model, served.body, given)

    def _run(self, model: Model, body: bytes, given: Given) -> NDArray[np.float32]:
        """Called in the shadow's thread."""
        frame = self._frames.fill(model, body, given)
        scores = model.runtime.run(frame.copied(), is_aside=True)[_HEAD]
        if not np.isfinite(scores).all():
            raise ValueError(f"the head {_HEAD} has scores that are not finite")
        return scores


def shift(probabilities: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of two probabilities [N], in log-odds."""
    return np.abs(log_odds(probabilities) - log_odds(others))
