"""Scoring threads over a runtime that counts its runs; and what is admitted to their queue."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

import native
from msd.contract.bundle import Bundle
from msd.contract.request import MAX_CANDIDATES
from msd.contract.tensors import Tensors
from service import limits
from service.errors import Overloaded
from service.runtimes.runtime import Engine, Scores
from service.scoring.engine import ScoringEngine
from service.scoring.frames import Frames
from service.scoring.model import Model, load_model
from service.scoring.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.service.fronted import Answer, Fronted, deployed
from tests.service.redis_rows import until

FAILS = 90
"""Of as many candidates, a run fails."""


class CountingRuntime:
    """Notes how many candidates it runs, which is also what it answers, in hundredths, once it may go on."""

    engine = Engine("counting", "1", "none", 1, "fp32", ())
    native = None

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.may_go_on: Callable[[], bool] = lambda: True
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def run(self, tensors: Tensors, is_aside: bool = False) -> Scores:
        count = len(tensors["item_dense"])
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.runs.append(count)
        while not self.may_go_on():
            time.sleep(0.001)
        with self._lock:
            self.at_once -= 1
        if count == FAILS:
            raise RuntimeError("too many for this runtime")
        return dict.fromkeys(("pctr", "pcvr"), np.full(count, count / 100, np.float32))

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        return ()


class Load(NamedTuple):
    """A number of candidates, their expected run time, and the name of the API key that asks."""

    rows: int
    seconds: float
    key: str = ""


class Admitted(NamedTuple):
    """An admitted load; `bucket` is its due time, in steps."""

    load: Load
    bucket: int


def enter(engine: ScoringEngine, load: Load, deadline: float) -> Admitted:
    """Have a load admitted until `release`. Raises Overloaded."""
    judged = engine.native.enter(*load, deadline)
    if isinstance(judged, tuple):
        raise Overloaded(judged[1])
    return Admitted(load, judged)


def release(engine: ScoringEngine, admitted: Admitted) -> None:
    engine.native.release(*admitted.load, admitted.bucket)


class Bench:
    """An engine, and what it has learned of one model."""

    def __init__(
        self,
        max_rows: int = 1_000,
        deadline_s: float = 60.0,
        threads: int = 1,
        patience_s: float = 60.0,
        max_candidates: int = MAX_CANDIDATES,
    ) -> None:
        assert native.core is not None
        self.metrics = Metrics()
        self.runtime = CountingRuntime()
        self.runner = native.core.Runner()
        self.engine = ScoringEngine(self.metrics, max_rows, threads, max_candidates, patience_s)
        self.deadline_s = deadline_s

    def admit(self, rows: int) -> Admitted:
        return enter(self.engine, Load(rows, self.runner.turn_s(rows, 0)), time.perf_counter() + self.deadline_s)

    @asynccontextmanager
    async def served(self, bundle: Bundle) -> AsyncIterator[None]:
        """Serve requests of up to 100 candidates and of any deadline, until all have their replies."""
        self._settings = settings = Settings(bundle=bundle.folder, max_candidates=100)
        self._bundle = bundle
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "MAX_DEADLINE_MS", 10**7)
            pipeline = Pipeline(Frames(self.metrics, 100))
            self.fronted = Fronted(settings, self.metrics, self.engine, pipeline, deployed([self.model()]))
            async with self.fronted.serve():
                yield
        self.engine.close()

    def model(self, runtime: CountingRuntime | None = None, runner: Any = None) -> Model:  # noqa: ANN401
        """The bundle with a runtime, by default the bench's."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native.core, "Runner", lambda: runner or self.runner)
            patch.setattr("service.scoring.model.open_runtime", lambda *_: runtime or self.runtime)
            return load_model(self._bundle, self._settings, self.metrics)

    async def ask(self, count: int, deadline_s: float = 60.0, size: int = 0) -> Answer:
        """`size`: of the body, at least."""
        body = {"user_id": "u1", "candidates": {"id": [f"i{n}" for n in range(count)]}}
        head = b"X-Deadline-Ms: %d\r\n" % (1000 * deadline_s)
        return await self.fronted.ask(json.dumps(body).encode().ljust(size), head)

    def asks(self, count: int, deadline_s: float = 60.0) -> "asyncio.Task[Answer]":
        return asyncio.ensure_future(self.ask(count, deadline_s))

    async def begins(self) -> None:
        await until(lambda: bool(self.runtime.runs))

    async def waits(self, count: int) -> None:
        await until(lambda: self.engine.heartbeat().waiting == count)
