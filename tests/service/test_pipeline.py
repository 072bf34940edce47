"""Requests on their way: what becomes of one that waits outside the queue."""

import asyncio
import json
import socket
import struct
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from starlette.types import Receive, Scope, Send

from msd.contract.assemble import wanted_items
from msd.contract.bundle import Bundle
from msd.contract.request import CheckedRequest
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from service.errors import DeadlineExceeded
from service.explainer import ExplainBudget, Explainer
from service.http.bridge import Bridge
from service.http.entry import bind, listen
from service.http.server import front_of
from service.scoring.answer import Answer, Budget, RawRequest
from service.scoring.deployment import Arm, Assignment, Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames, RowsOf
from service.scoring.model import load_model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.test_bad_input import HEAD

BODY = json.dumps({"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}).encode()


REQUEST = HEAD + b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def refuse_all(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(scope["path"])


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
        self.model, self.settings = load_model(bundle, settings, metrics), settings
        self.deployment = self.split("a")
        now = time.perf_counter()
        self.raw = RawRequest("x", BODY, now, Budget(now + 60.0, lambda: False))

    def split(self, *names: str) -> Deployment:
        """A deployment of such arms, all of one model."""
        arms = tuple(Arm(name, self.model, slot) for slot, name in enumerate(names, 1))
        return Deployment(1, arms, Assignment("one", names, [1.0] * len(names)))

    async def answer(self, raw: RawRequest) -> Answer:
        """As the app does for a request that the front has not read."""
        return await self.pipeline.answer(self.pipeline.job(self.deployment, raw), raw)

    @asynccontextmanager
    async def served(self, deployment: Deployment) -> AsyncIterator[Connect]:
        """Serve over a front, which hands nothing else to Python; give what connects to it."""
        front = front_of(self.settings, self.engine.native)
        bridge = Bridge(front, refuse_all, self.pipeline)
        bridge.open()
        listener = bind("127.0.0.1", 0)
        _, port = listen(listener)
        front.start(listener.detach())
        self.front = front
        front.serve(self.pipeline.plan(deployment))
        yield partial(asyncio.open_connection, "127.0.0.1", port)
        front.close_idle()
        while front.connections:
            await asyncio.sleep(0.001)
        bridge.close()
        front.stop()


@pytest.mark.anyio
async def test_cancelled_request_does_not_go_on_when_its_rows_come(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    answer = asyncio.ensure_future(waiting.answer(waiting.raw))
    await waiting.states.asked.wait()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    waiting.states.may_come.set()
    await asyncio.sleep(0)

    assert waiting.engine.is_idle
    waiting.engine.close()


@pytest.mark.anyio
async def test_answered_request_leaves_nothing_behind(bundle: Bundle) -> None:
    """Its client has its job, which knows how to ask whether they have left."""

    class Client:
        job: object = None

        def is_gone(self) -> bool:
            return False

    waiting, client = Waiting(bundle), Client()
    waiting.states.may_come.set()
    raw = waiting.raw._replace(budget=Budget(waiting.raw.budget.deadline, client.is_gone))
    client.job = job = waiting.pipeline.job(waiting.deployment, raw)
    assert json.loads((await waiting.pipeline.answer(job, raw)).body)["candidates"]["id"] == ["i1", "i2"]
    assert waiting.engine.is_idle
    found = weakref.ref(client)
    del client, job, raw
    assert found() is None
    waiting.engine.close()


@pytest.mark.anyio
async def test_late_reply_says_which_part_waited(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    deadline = time.perf_counter() + 0.2
    raw = waiting.raw._replace(budget=Budget(deadline, lambda: False))
    answer = asyncio.ensure_future(waiting.answer(raw))
    await asyncio.sleep(deadline - time.perf_counter())
    waiting.states.may_come.set()

    # The other texts are of a thread that is not even free for this one, and of a loop that does not come to it.
    texts = r"\d+ ms until it was queued|no scoring thread was free in time|or the service's event loop, was slow"
    with pytest.raises(DeadlineExceeded, match=texts):
        await answer
    waiting.engine.close()


@pytest.mark.anyio
async def test_reply_to_a_client_that_has_left_goes_to_no_other(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    async with waiting.served(waiting.deployment) as connect:
        _, leaving = await connect()
        leaving.write(REQUEST % (b"left", len(BODY), BODY))
        await waiting.states.asked.wait()
        leaving.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.transport.abort()
        while waiting.front.connections:
            await asyncio.sleep(0.001)
        # Its descriptor is that of the next connection.
        reader, staying = await connect()
        waiting.states.may_come.set()
        staying.write(REQUEST % (b"stays", len(BODY), BODY))
        reply = await reader.readuntil(b"\r\n\r\n")
        staying.close()

    assert reply.startswith(b"HTTP/1.1 200 ")
    assert b"x-request-id: stays\r\n" in reply
    assert waiting.engine.is_idle
    waiting.engine.close()


@pytest.mark.anyio
async def test_request_that_waits_for_its_rows_ends_with_its_deployment(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    async with waiting.served(waiting.split("a", "b")) as connect:
        reader, writer = await connect()
        writer.write(REQUEST % (b"x", len(BODY), BODY))
        await waiting.states.asked.wait()
        waiting.front.serve(waiting.pipeline.plan(waiting.split("c", "d")))
        waiting.front.forget_plans()
        waiting.states.may_come.set()
        head = await reader.readuntil(b"\r\n\r\n")
        reply = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()

    assert json.loads(reply)["arm"] in ("a", "b")
    waiting.engine.close()
