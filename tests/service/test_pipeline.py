"""Requests on their way: what becomes of one that waits outside the queue."""

import asyncio
import gc
import json
import socket
import struct
from collections.abc import Sequence
from typing import NoReturn
from weakref import ref

import pytest

from msd.contract.bundle import Bundle
from msd.contract.request import InvalidRequest
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from native.layout import AskedRequest
from service.routes.forms import Forms
from service.scoring.answer import Served
from service.scoring.deployment import Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames, RowsOf
from service.scoring.model import load_model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.fronted import HEAD, Fronted, answer_of, deployed

BODY = json.dumps({"user_id": "u1", "candidates": {"id": ["i1", "i2"]}}).encode()
REQUEST = HEAD % (b"/v1/score", len(BODY)) + b"X-Request-Id: %b\r\n\r\n" + BODY


class SlowStates:
    """Live states that are none, and come only once `may_come` is set."""

    def __init__(self) -> None:
        self.asked, self.may_come = asyncio.Event(), asyncio.Event()

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> None:
        return None

    async def fetch(
        self, schema: FeatureSchema, request: AskedRequest, fetch: RowsOf, deadline: float | None = None
    ) -> tuple[Rows, Rows, None]:
        self.asked.set()
        await self.may_come.wait()
        user = await fetch("user", [request.user_id])
        return user, await fetch("item", request.wanted(user)), None


class Waiting(Fronted):
    """A service whose requests wait for live states."""

    def __init__(self, bundle: Bundle) -> None:
        metrics, settings = Metrics(), Settings(bundle=bundle.folder)
        self.engine, self.states = ScoringEngine(metrics, 1_000), SlowStates()
        self.model = load_model(bundle, settings, metrics)
        pipeline = Pipeline(Frames(metrics, 100, self.states))
        super().__init__(settings, metrics, self.engine, pipeline, deployed([self.model]))


@pytest.mark.anyio
async def test_late_reply_says_which_part_waited(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    async with waiting.serve():
        answer = asyncio.ensure_future(waiting.ask(BODY, b"X-Deadline-Ms: 200\r\n"))
        await waiting.states.asked.wait()
        await asyncio.sleep(0.3)
        waiting.states.may_come.set()
        found = await answer
    assert found.status == 504
    assert "ms until it was queued" in found.document["error"]["message"]
    assert waiting.engine.is_idle
    waiting.engine.close()


@pytest.mark.anyio
async def test_reply_to_a_client_that_has_left_goes_to_no_other(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    async with waiting.serve():
        _, leaving = await waiting.connect()
        leaving.write(REQUEST % b"left")
        await waiting.states.asked.wait()
        leaving.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.transport.abort()
        while waiting.front.connections:
            await asyncio.sleep(0.001)
        # Its descriptor is that of the next connection.
        reader, staying = await waiting.connect()
        waiting.states.may_come.set()
        staying.write(REQUEST % b"stays")
        answer = await answer_of(reader)
        staying.close()

    assert answer.status == 200
    assert b"x-request-id: stays\r\n" in answer.head
    assert waiting.engine.is_idle
    waiting.engine.close()


@pytest.mark.anyio
async def test_request_that_waits_for_its_rows_ends_with_its_deployment(bundle: Bundle) -> None:
    waiting = Waiting(bundle)
    waiting.serving.current = deployed([waiting.model] * 2, "ab")
    async with waiting.serve():
        answer = asyncio.ensure_future(waiting.ask(BODY))
        await waiting.states.asked.wait()
        waiting.swap(deployed([waiting.model] * 2, "cd"))
        waiting.states.may_come.set()
        assert (await answer).document["arm"] in ("a", "b")
    waiting.engine.close()


class Asked(list[str]):
    """A follower that wants nothing, and notes what it is asked and told."""

    def wants(self, deployment: Deployment, request_id: str) -> bool:
        self.append("wants")
        return False

    def follow(self, deployment: Deployment, served: Served | None) -> None:
        self.append("follow")


@pytest.mark.anyio
@pytest.mark.parametrize(("user", "status"), [({"user_id": ["u1"]}, 200), ({}, 400)])
async def test_followers_are_asked_once_of_tensors_and_not_of_refused_ones(
    bundle: Bundle, user: dict[str, list[str]], status: int
) -> None:
    metrics, settings, follower = Metrics(), Settings(bundle=bundle.folder), Asked()
    engine, model = ScoringEngine(metrics, 1_000), load_model(bundle, settings, metrics)
    pipeline = Pipeline(Frames(metrics, 100), followers=[follower], translate=Forms(metrics, 100).translate)
    given = {**user, "candidates.id": ["i1", "i2"]}
    inputs = [{"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data} for name, data in given.items()]
    service = Fronted(settings, metrics, engine, pipeline, deployed([model]))
    async with service.serve():
        answer = await service.ask(json.dumps({"inputs": inputs}).encode(), path=b"/v2/models/msd/infer")
    engine.close()

    assert answer.status == status
    assert follower == (["wants", "follow"] if status == 200 else [])


@pytest.mark.anyio
async def test_errors_of_refused_requests_are_not_kept(bundle: Bundle) -> None:
    errors: list[ref[Exception]] = []

    def translate(*_: object) -> NoReturn:
        error = InvalidRequest("as any other")
        errors.append(ref(error))
        raise error

    metrics, settings = Metrics(), Settings(bundle=bundle.folder)
    engine, model = ScoringEngine(metrics, 1_000), load_model(bundle, settings, metrics)
    service = Fronted(settings, metrics, engine, Pipeline(Frames(metrics, 100), translate=translate), deployed([model]))
    async with service.serve():
        answer = await service.ask(b"{}", path=b"/v2/models/msd/infer")
    engine.close()
    gc.collect()

    assert answer.status == 400
    assert [error() for error in errors] == [None]


class Wanting(list[str]):
    """A follower that wants all, and notes what it learns of."""

    def wants(self, deployment: Deployment, request_id: str) -> bool:
        return True

    def follow(self, deployment: Deployment, served: Served | None) -> None:
        assert served is not None
        self.append(served.request_id)


@pytest.mark.anyio
async def test_followers_learn_of_replies_that_the_loop_had_no_time_for_before_the_end(bundle: Bundle) -> None:
    metrics, settings, follower = Metrics(), Settings(bundle=bundle.folder), Wanting()
    engine, model = ScoringEngine(metrics, 1_000), load_model(bundle, settings, metrics)
    service = Fronted(
        settings, metrics, engine, Pipeline(Frames(metrics, 100), followers=[follower]), deployed([model])
    )
    async with service.serve():
        # Nothing here gives the loop a turn.
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(REQUEST % b"last")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 OK")
        while not engine.is_idle or service.front.connections:
            pass
        assert follower == []
    engine.close()

    assert follower == ["last"]
