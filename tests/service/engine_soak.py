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

from msd.contract.bundle import Bundle
from msd.contract.request import InvalidRequest
from msd.contract.rows import Rows
from msd.contract.schema import FeatureSchema
from native import core
from native.layout import AskedRequest
from service.scoring.deployment import Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames, RowsOf
from service.scoring.model import load_model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.logs import configure_logs
from service.telemetry.metrics import Metrics
from tests.bundles.factory import build_bundle
from tests.bundles.ranker_graph import POISON_HOUR, Recipe
from tests.service.faults import run_in_python
from tests.service.fronted import HEAD, Fronted, answer_of, deployed

_THREADS, _CLIENTS, _MOST = 4, 24, 200
_SWAP_S = 0.05
_END_S = 120.0
"""Within this, all loads are released."""
_FORMS: list[dict[str, object]] = [{}, {}, {"explain": True}, {"explore": {}}, {"top_k": 3}, {"wrong": 1}]
_INFER = b"/v2/models/msd/infer"
_PATHS = [b"/v1/score", b"/v1/openrtb", _INFER]
_HARD = struct.pack("ii", 1, 0)
_NONSENSE = [
    b"nonsense\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
]


def states_of(count: int, stream: tuple[float, float] | None, unknown: bytes | None) -> "core.LiveStates":
    """No states of a user and `count` candidates."""
    return core.LiveStates(
        user=None,
        items=[None] * count,
        stream=stream,
        lag_s=0.0,
        user_half_life_s=1.0,
        item_half_life_s=1.0,
        unknown=unknown,
    )


class FitfulStates:
    """Live states that are none, some of which come late."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def cached(self, schema: FeatureSchema, user_id: str | None, ids: Sequence[str]) -> "core.LiveStates | None":
        return None if self._random.random() < 0.3 else states_of(len(ids), None, None)

    async def fetch(
        self, schema: FeatureSchema, request: AskedRequest, fetch: RowsOf, deadline: float | None = None
    ) -> "tuple[Rows, Rows, core.LiveStates | None]":
        await asyncio.sleep(self._random.random() * 0.01)
        user = await fetch("user", [request.user_id])
        items = await fetch("item", request.wanted(user))
        states = states_of(len(request.ids), (1.0, 2.0), bytes(1 + len(request.ids)))
        return user, items, states if self._random.random() < 0.5 else None


def scored_twice(
    deployment: Deployment, path: str, json_length: bytes | None, request_id: str, body: bytes
) -> "core.Translation":
    """A request of another form, which is scored twice; some have a mistake, and some set their deadlines."""
    if len(body) % 7 == 0:
        raise InvalidRequest("of an unlucky length")
    parts = [(f"{request_id}/{place}", body) for place in range(2)]
    timeout_s = 0.5 if len(body) % 2 else None
    # Both together have the limit of one request.
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if 2 * len(json.loads(body)["candidates"]["id"]) > _MOST:
            raise InvalidRequest("of too many candidates")
    return core.Translation(
        shown_id=request_id,
        parts=parts,
        timeout_s=timeout_s,
        reply=lambda replies: ([], replies[1]),
        outputs=None,
        place_of=lambda _, field: field,
    )


class EngineSoak:
    """Clients of one engine, whose deployment is swapped all the time."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self._bundle, self._random = bundle, Random(seed)
        self._metrics = Metrics()
        self._settings = Settings(bundle=bundle.folder, max_candidates=_MOST, explore_share=0.5)
        self._engine = ScoringEngine(self._metrics, 2_000, _THREADS, _MOST, 0.05)
        frames = Frames(self._metrics, _MOST, FitfulStates(self._random))
        pipeline = Pipeline(frames, translate=scored_twice)
        self._generation = 0
        self._fronted = Fronted(self._settings, self._metrics, self._engine, pipeline, self._loaded())
        self.outcomes: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with self._fronted.serve():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._swap(until))
                for _ in range(_CLIENTS):
                    group.create_task(self._ask(until))
            self._engine.close()
            # What abandoned requests waited for ends shortly after them. The front releases their loads.
            async with asyncio.timeout(_END_S):
                while not self._engine.is_idle:
                    await asyncio.sleep(0.001)

    def _loaded(self) -> Deployment:
        """Return one arm or two."""
        self._generation += 1
        models = [load_model(self._bundle, self._settings, self._metrics) for _ in range(1 + self._generation % 2)]
        return deployed(models, generation=self._generation)

    async def _swap(self, until: float) -> None:
        while time.monotonic() < until:
            self._fronted.swap(await asyncio.to_thread(self._loaded))
            if self._random.random() < 0.1:
                self._fronted.front.serve(None, False)
            self.outcomes["swaps"] += 1
            await asyncio.sleep(_SWAP_S)

    def _body(self) -> bytes:
        random = self._random
        document: dict[str, object] = {
            "user_id": random.choice(["u1", "u2", "nobody", None]),
            "candidates": {
                "id": [f"i{random.randrange(300)}" for _ in range(random.choice([1, 5, 50, _MOST, _MOST + 1]))]
            },
            "context": {"hour": POISON_HOUR if random.random() < 0.03 else 1},
        }
        return json.dumps(document | random.choice(_FORMS)).encode()

    async def _ask(self, until: float) -> None:
        while time.monotonic() < until:
            await self._ask_once()

    async def _ask_once(self) -> None:
        """As clients do, some of whom leave, end, or send nonsense."""
        random = self._random
        reader, writer = await self._fronted.connect()
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
                answer = await answer_of(reader)
                if answer.status == 200:
                    self._check(answer.document)
                self.outcomes[f"status {answer.status}"] += 1
        except (OSError, asyncio.IncompleteReadError):  # an end after a reset is not a ConnectionError
            self.outcomes["ended"] += 1
        finally:
            writer.close()

    def _request(self) -> bytes:
        body, ms = self._body(), self._random.choice([1, 5, 50, 1_000])
        path = self._random.choice(_PATHS)
        if path == _INFER:
            whole = {"name": "request", "shape": [1], "datatype": "BYTES", "data": [body.decode()]}
            body = json.dumps({"inputs": [whole], "id": "y" * self._random.randrange(40)}).encode()
        deadline = b"X-Deadline-Ms: %d\r\n" % ms if self._random.random() < 0.9 else b""
        return HEAD % (path, len(body)) + deadline + b"\r\n" + body

    def _check(self, reply: dict[str, dict[str, object]]) -> None:
        """Check a whole reply."""
        assert reply["outputs"] if "outputs" in reply else reply["candidates"]["id"]


def main() -> None:
    """Soaks, and prints JSON of the outcomes."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    # As the service does. By default, errors would be shown with all variables, among them tensors that threads write.
    configure_logs("critical")
    with TemporaryDirectory() as folder:
        soaks = {}
        for name in ("native runs", "runs in Python"):
            soak = EngineSoak(build_bundle(Path(folder) / name, Recipe(fails=True)), given.seed)
            asyncio.run(soak.run(given.seconds / 2))
            soaks[name] = soak.outcomes
            run_in_python()
    print(json.dumps(soaks, indent=1))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
