"""`python -m tests.service.engine_soak`: traffic, overload, leaving clients, failing runtimes and swaps on one engine.

With a core built by `python -m native.build --sanitise`, a wrong access or a data race ends it.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from msd.contract.bundle import Bundle
from msd.contract.request import RequestError
from service.errors import ClientGone, ServiceError
from service.explainer import ExplainBudget, Explainer
from service.scoring.answer import Answer, Budget, RawRequest
from service.scoring.deployment import Arm, Assignment, Deployment
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames
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
_HEAD, _TAIL = b"HTTP/1.1 200 OK\r\n", b"x-request-id: x\r\n\r\n"


class EngineSoak:
    """Clients of one engine, whose deployment is swapped all the time."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self._bundle, self._random = bundle, Random(seed)
        self._metrics = Metrics()
        self._settings = Settings(bundle=bundle.folder, max_candidates=_MOST, explore_share=0.5)
        self._engine = ScoringEngine(self._metrics, 2_000, _THREADS, _MOST, 0.05)
        frames, explainer = Frames(self._metrics, _MOST), Explainer(self._engine, ExplainBudget(10.0))
        self._pipeline = Pipeline(self._engine, self._metrics, frames, explainer, 0.5)
        self._generation = 0
        self._deployment = self._loaded()
        self.outcomes: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._swap(until))
                for _ in range(_CLIENTS):
                    group.create_task(self._ask(until))
        finally:
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
            self.outcomes["swaps"] += 1
            await asyncio.sleep(_SWAP_S)

    async def _ask(self, until: float) -> None:
        while time.monotonic() < until:
            ask = self._ask_wired if self._random.random() < 0.7 else self._ask_waiting
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
        task = asyncio.ensure_future(self._pipeline.answer(self._deployment, self._raw()))
        if self._random.random() < 0.2:
            asyncio.get_running_loop().call_later(self._random.random() * 0.01, task.cancel)
        try:
            answer = await task
            self._check(answer.body)
        except (Exception, asyncio.CancelledError) as error:
            self._note(error)

    async def _ask_wired(self) -> None:
        """As the fast route does; some clients leave."""
        ours, theirs = socket.socketpair()
        told: asyncio.Future[Answer | BaseException] = asyncio.get_running_loop().create_future()
        with ours, theirs:
            ours.setblocking(False)
            wire = (ours.fileno(), _HEAD, _TAIL)
            try:
                way = self._pipeline.begin(self._deployment, self._raw(), told.set_result, wire)
            except (ServiceError, ClientGone, asyncio.CancelledError) as error:
                self._note(error)
                await asyncio.sleep(0.001)
                return
            if self._random.random() < 0.2:
                await asyncio.sleep(self._random.random() * 0.01)
                self._pipeline.leave(way)
                ours.close()
            outcome = await told
            if isinstance(outcome, BaseException):
                self._note(outcome)
            elif not outcome.headers and ours.fileno() >= 0:
                theirs.setblocking(False)
                head, _, body = theirs.recv(1 << 20).partition(b"\r\n\r\n")
                assert head.startswith(_HEAD), head
                self._check(body + outcome.body)
            self.outcomes["answered"] += isinstance(outcome, Answer)

    def _check(self, body: bytes) -> None:
        """Check a whole reply."""
        assert json.loads(body)["candidates"]["id"]

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
