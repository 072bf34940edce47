"""`python -m tests.service.engine_soak`: traffic, overload, leaving clients, failing runtimes, late states and swaps on
one engine and its front.

With a core built by `python -m native.build --sanitise`, a wrong access or a data race ends it.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from starlette.types import Receive, Scope, Send

from msd.contract.assemble import wanted_items
from msd.contract.bundle import Bundle
from msd.contract.request import CheckedRequest, InvalidRequest, RequestError
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from service.errors import ClientGone, ServiceError
from service.explainer import ExplainBudget, Explainer
from service.http.bridge import Bridge
from service.http.entry import bind, listen
from service.http.exchange import JOB
from service.http.middleware import send_reply
from service.http.server import front_of
from service.scoring.answer import Budget, Form, RawRequest, Translated
from service.scoring.deployment import Arm, Assignment, Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames, RowsOf
from service.scoring.model import load_model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import POISON_HOUR, Recipe
from tests.service.faults import run_in_python

_THREADS, _CLIENTS, _MOST = 4, 24, 200
_SWAP_S = 0.05
_END_S = 30.0
"""Within this, all loads are released."""
_FAILED = "while running Gather node"
"""What the runtime says of a run that the graph lets fail."""
_FORMS: list[dict[str, object]] = [{}, {}, {"explain": True}, {"explore": {}}, {"top_k": 3}, {"wrong": 1}]
_PATHS = {"/v1/score": Form.SCORE, "/v1/openrtb": Form.OPENRTB, "/v2/models/msd/infer": Form.INFER}
_HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_HARD = struct.pack("ii", 1, 0)
_NONSENSE = [
    b"nonsense\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n\r\n",
    _HEAD % b"/v1/score" + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
]


class FitfulStates:
    """Live states that are none, some of which come late."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> tuple[object, ...] | None:
        return None if self._random.random() < 0.3 else (None, [None] * len(ids), None, 0.0, 1.0, 1.0)

    async def fetch(
        self, schema: FeatureSchema, request: CheckedRequest, at: float, fetch: RowsOf, deadline: float | None = None
    ) -> tuple[Rows, Rows]:
        await asyncio.sleep(self._random.random() * 0.01)
        user = await fetch("user", [request.user_id])
        return user, await fetch("item", wanted_items(request, user))


def scored_twice(
    deployment: Deployment, path: str, json_length: bytes | None, request_id: str, body: bytes
) -> Translated:
    """A request of another form, which is scored twice; some have a mistake, and some set their deadlines."""
    if len(body) % 7 == 0:
        raise InvalidRequest("of an unlucky length")
    parts = [(f"{request_id}/{place}", body) for place in range(2)]
    timeout_s = 0.5 if len(body) % 2 else None
    return Translated(
        request_id, parts, timeout_s, lambda replies: ([], replies[1]), _check_twice, None, lambda _, field: field
    )


def _check_twice(body: bytes) -> None:
    """Both parts together have the limit of one request."""
    if 2 * len(json.loads(body)["candidates"]["id"]) > _MOST:
        raise InvalidRequest("of too many candidates")


class EngineSoak:
    """Clients of one engine, whose deployment is swapped all the time."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self._bundle, self._random = bundle, Random(seed)
        self._metrics = Metrics()
        self._settings = Settings(bundle=bundle.folder, max_candidates=_MOST, explore_share=0.5)
        self._engine = ScoringEngine(self._metrics, 2_000, _THREADS, _MOST, 0.05)
        frames = Frames(self._metrics, _MOST, FitfulStates(self._random))
        explainer = Explainer(self._engine, ExplainBudget(10.0))
        self._pipeline = Pipeline(self._engine, frames, explainer, 0.5, translate=scored_twice)
        self._front = front_of(self._settings, self._engine.native)
        self._port = 0
        self._generation = 0
        self._deployment = self._loaded()
        self.outcomes: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        bridge = Bridge(self._front, self._app, self._pipeline)
        bridge.open()
        listener = bind("127.0.0.1", 0)
        _, self._port = listen(listener)
        self._front.start(listener.detach())
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._swap(until))
                for _ in range(_CLIENTS):
                    group.create_task(self._ask(until))
        finally:
            self._front.close_listener()
            self._front.close_idle()
            while self._front.connections:
                await asyncio.sleep(0.01)
            bridge.close()
            self._front.stop()
            self._engine.close()
        # What cancelled requests waited for ends shortly after them.
        async with asyncio.timeout(_END_S):
            while not self._engine.is_idle:
                await asyncio.sleep(0.001)

    def _loaded(self) -> Deployment:
        """Return one arm or two."""
        self._generation += 1
        names = ("a", "b")[: 1 + self._generation % 2]
        models = [load_model(self._bundle, self._settings, self._metrics) for _ in names]
        arms = tuple(Arm(name, model, slot) for slot, (name, model) in enumerate(zip(names, models, strict=True), 1))
        return Deployment(self._generation, arms, Assignment("soak", names, [1.0] * len(names)))

    async def _swap(self, until: float) -> None:
        while time.monotonic() < until:
            self._deployment = await asyncio.to_thread(self._loaded)
            self._front.serve(self._pipeline.plan(self._deployment) if self._random.random() < 0.9 else None)
            self._front.forget_plans()
            self.outcomes["swaps"] += 1
            await asyncio.sleep(_SWAP_S)

    async def _ask(self, until: float) -> None:
        while time.monotonic() < until:
            ask = self._ask_over_http if self._random.random() < 0.7 else self._ask_waiting
            await ask()

    def _raw(self) -> RawRequest:
        random = self._random
        document: dict[str, object] = {
            "user_id": random.choice(["u1", "u2", "nobody", None]),
            "candidates": {
                "id": [f"i{random.randrange(300)}" for _ in range(random.choice([1, 5, 50, _MOST, _MOST + 1]))]
            },
            "context": {"hour": POISON_HOUR if random.random() < 0.03 else 1},
        }
        document |= random.choice(_FORMS)
        now = time.perf_counter()
        seconds = random.choice([0.0005, 0.005, 0.05, 1.0])
        is_gone = random.choice([lambda: False, lambda: self._random.random() < 0.1])
        return RawRequest("x", json.dumps(document).encode(), now, Budget(now + seconds, is_gone))

    async def _ask_waiting(self) -> None:
        """As the app does; some callers give up."""
        raw = self._raw()
        task = asyncio.ensure_future(self._pipeline.answer(self._pipeline.job(self._deployment, raw), raw))
        if self._random.random() < 0.2:
            asyncio.get_running_loop().call_later(self._random.random() * 0.01, task.cancel)
        try:
            answer = await task
            self._check(answer.body)
        except (Exception, asyncio.CancelledError) as error:
            self._note(error)

    async def _ask_over_http(self) -> None:
        """As clients do, some of whom leave, end, or send nonsense."""
        random = self._random
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        count = random.choice([1, 1, 1, 3, 20])
        stream = b"".join(self._request() for _ in range(count))
        if random.random() < 0.1:
            stream += random.choice(_NONSENSE)
        cut = random.randrange(len(stream))
        try:
            writer.write(stream[:cut])
            await asyncio.sleep(random.choice([0, 0, 0.001, 0.06]))
            writer.write(stream[cut:])
            match random.randrange(6):
                case 0:
                    await asyncio.sleep(random.random() * 0.01)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _HARD)
                    writer.transport.abort()
                    self.outcomes["left"] += 1
                    return
                case 1:
                    writer.write_eof()
            for _ in range(count):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body, status = await reader.readexactly(length), int(head.split()[1])
                if status == 200:
                    self._check(body)
                self.outcomes[f"status {status}"] += 1
        except (OSError, asyncio.IncompleteReadError):  # an end after a reset is not a ConnectionError
            self.outcomes["ended"] += 1
        finally:
            writer.close()

    def _request(self) -> bytes:
        body, ms = self._raw().body, self._random.choice([1, 5, 50, 1_000])
        path = self._random.choice(list(_PATHS))
        if _PATHS[path] is Form.INFER:
            whole = {"name": "request", "shape": [1], "datatype": "BYTES", "data": [body.decode()]}
            body = json.dumps({"inputs": [whole], "id": "y" * self._random.randrange(40)}).encode()
        head = _HEAD % path.encode()
        deadline = b"X-Deadline-Ms: %d\r\n" % ms if self._random.random() < 0.9 else b""
        return head + deadline + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the front hands over."""
        now, job = time.perf_counter(), scope[JOB]
        body = (await receive()).get("body", b"") if job is None else job.body
        raw = RawRequest("x", body, now, Budget(now + 1.0, lambda: False), _PATHS[scope["path"]], scope["path"])
        status, reply = 200, b""
        try:
            reply = (await self._pipeline.answer(job or self._pipeline.job(self._deployment, raw), raw)).body
        except (Exception, asyncio.CancelledError) as error:
            self._note(error)
            status = 422
        await send_reply(send, status, [(b"content-length", b"%d" % len(reply))], reply)

    def _check(self, body: bytes) -> None:
        """Check a whole reply."""
        reply = json.loads(body)
        assert reply["outputs"] if "outputs" in reply else reply["candidates"]["id"]

    def _note(self, error: BaseException) -> None:
        is_failed_run = isinstance(error, RuntimeError) and _FAILED in str(error)
        if not is_failed_run and not isinstance(
            error, ServiceError | RequestError | ClientGone | asyncio.CancelledError
        ):
            raise error
        self.outcomes[type(error).__name__] += 1


def main() -> None:
    """Soaks, and prints JSON of the outcomes."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        soaks = {}
        for name in ("native runs", "runs in Python"):
            soak = EngineSoak(build_bundle(Path(folder) / name, Recipe(fails=True)), given.seed)
            asyncio.run(soak.run(given.seconds / 2))
            soaks[name] = soak.outcomes
            run_in_python()
    print(json.dumps(soaks, indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
