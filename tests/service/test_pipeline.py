"""Requests on their way: what becomes of one that waits outside the queue."""

import asyncio
import json
import time
from collections.abc import Sequence

import pytest

from msd.contract.assemble import wanted_items
from msd.contract.bundle import Bundle
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from service.errors import DeadlineExceeded
from service.explainer import ExplainBudget, Explainer
from service.scoring.answer import Budget, RawRequest
from service.scoring.deployment import Arm, Assignment, Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames, RowsOf
from service.scoring.model import load_model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics

BODY = json.dumps({"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}).encode()


class SlowStates:
    """Live states that are none, and come only once `may_come` is set."""

    def __init__(self) -> None:
        self.asked, self.may_come = asyncio.Event(), asyncio.Event()

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> None:
        return None

    async def fetch(
        self, schema: FeatureSchema, request: CheckedRequest, at: float, fetch: RowsOf, deadline: float | None = None
    ) -> tuple[Rows, Rows]:
        self.asked.set()
        await self.may_come.wait()
        user = await fetch("user", [request.user_id])
        return user, await fetch("item", wanted_items(request, user))


class Waiting:
    """A pipeline with one request that waits for live states."""

    def __init__(self, bundle: Bundle) -> None:
        metrics, settings = Metrics(), Settings(bundle=bundle.folder)
        self.engine, self.states = ScoringEngine(metrics, 1_000), SlowStates()
        explainer = Explainer(self.engine, ExplainBudget(1.0))
        self.pipeline = Pipeline(self.engine, Frames(metrics, 100, self.states), explainer, 0.0)
        model = load_model(bundle, settings, metrics)
        self.deployment = Deployment(1, (Arm("a", model, 1),), Assignment("one", ("a",), [1.0]))
        now = time.perf_counter()
        self.raw = RawRequest("x", BODY, now, Budget(now + 60.0, lambda: False))


@pytest.mark.anyio
async def test_cancelled_request_does_not_go_on_when_its_rows_come(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    answer = asyncio.ensure_future(waiting.pipeline.answer(waiting.deployment, waiting.raw))
    await waiting.states.asked.wait()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    waiting.states.may_come.set()
    await asyncio.sleep(0)

    assert waiting.engine.is_idle
    waiting.engine.close()


@pytest.mark.anyio
async def test_request_is_scored_once_its_rows_have_come(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    waiting.states.may_come.set()
    answer = await waiting.pipeline.answer(waiting.deployment, waiting.raw)

    assert json.loads(answer.body)["candidates"]["id"] == ["i1", "i2"]
    assert waiting.engine.is_idle
    waiting.engine.close()


@pytest.mark.anyio
async def test_late_reply_says_which_part_waited(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    deadline = time.perf_counter() + 0.2
    raw = waiting.raw._replace(budget=Budget(deadline, lambda: False))
    answer = asyncio.ensure_future(waiting.pipeline.answer(waiting.deployment, raw))
    await waiting.states.asked.wait()
    await asyncio.sleep(deadline - time.perf_counter())
    waiting.states.may_come.set()

    # The second text is of a thread that is not even free for this one.
    with pytest.raises(DeadlineExceeded, match=r"\d+ ms until it was queued|no scoring thread was free in time"):
        await answer
    with pytest.raises(DeadlineExceeded, match="before the request was queued"):
        waiting.engine.check_wanted(deadline, lambda: False)
    waiting.engine.close()
