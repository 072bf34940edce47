"""The front, the engine and what they need of Python, in this process: requests go over connections, as clients send
them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from service.deployment.readiness import Readiness
from service.http.bridge import Bridge
from service.http.entry import bind, listen
from service.http.server import front_of
from service.routes.explainer import ExplainBudget, Explainer
from service.routes.score_route import ScoreRoute
from service.scoring.deployment import Arm, Deployment, Serving, UserSplit
from service.scoring.engine import ScoringEngine
from service.scoring.model import Model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics

HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"


def deployed(models: Sequence[Model], names: Sequence[str] = "abcdefgh", generation: int = 1) -> Deployment:
    """A deployment of one arm for each model."""
    own = names[: len(models)]
    arms = tuple(Arm(name, model, slot) for slot, (name, model) in enumerate(zip(own, models, strict=True), 1))
    return Deployment(generation, arms, UserSplit("one", own, [1.0] * len(own)))


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes

    @property
    def document(self) -> Any:  # noqa: ANN401 - any JSON
        return json.loads(self.body)


class Fronted:
    """Serves a deployment."""

    def __init__(
        self, settings: Settings, metrics: Metrics, engine: ScoringEngine, pipeline: Pipeline, deployment: Deployment
    ) -> None:
        readiness = Readiness(metrics)
        readiness.missing.clear()
        self.serving = Serving(deployment, lambda _: None)
        parts = pipeline, Explainer(engine, ExplainBudget(10.0)), readiness, None, None
        self.route = ScoreRoute(settings, self.serving, *parts, metrics)
        self.front = front_of(settings, engine.native)
        self._bridge = Bridge(self.front, self.route.answer, self.route)
        self.port = 0

    def swap(self, deployment: Deployment) -> None:
        self.serving.current = deployment
        self.route.look()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Until all connections have ended."""
        self._bridge.open()
        listener = bind("127.0.0.1", 0)
        _, self.port = listen(listener)
        self.front.start(listener.detach())
        self.route.open(self.front)
        try:
            yield
        finally:
            self.front.close_listener()
            self.front.close_idle()
            while self.front.connections:
                await asyncio.sleep(0.001)
            self.front.stop()
            self._bridge.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, body: bytes, *headers: bytes, path: bytes = b"/v1/score") -> Answer:
        """One request over a connection of its own."""
        reader, writer = await self.connect()
        writer.write(HEAD % (path, len(body)) + b"".join(headers) + b"\r\n" + body)
        try:
            return await answer_of(reader)
        finally:
            writer.close()


async def answer_of(reader: asyncio.StreamReader) -> Answer:
    """The next reply of a connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return Answer(int(head.split()[1]), head, await reader.readexactly(length))
