"""Scoring threads over a runtime that counts its runs."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from msd.contract.assemble import Tensors
from service.runtimes.runtime import Engine, Scores
from service.scoring.engine import Admitted, Runner, ScoringEngine
from service.telemetry.metrics import Metrics
from tests.service.redis_rows import until


class CountingRuntime:
    """Notes what it runs, and answers with what it was given once it may go on."""

    engine = Engine("counting", "1", "none", 1, "fp32", ())
    native = None

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.may_go_on: Callable[[], bool] = lambda: True
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def run(self, tensors: Tensors) -> Scores:
        """Fails on −1."""
        value = int(tensors["x"][0])
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.runs.append(value)
        while not self.may_go_on():
            time.sleep(0.001)
        with self._lock:
            self.at_once -= 1
        if value == -1:
            raise RuntimeError("no such value")
        return {"pctr": np.array([value], np.float32)}

    def warm_up_sizes(self, max_candidates: int) -> Sequence[int]:
        return ()


class Bench:
    """An engine and its runtime."""

    def __init__(
        self, max_rows: int = 1_000, deadline_s: float = 60.0, threads: int = 1, patience_s: float = 60.0
    ) -> None:
        self.runtime = CountingRuntime()
        self.metrics = Metrics()
        self.runner = Runner(self.runtime)
        self.engine = ScoringEngine(self.metrics, max_rows, threads, patience_s=patience_s)
        self.deadline_s = deadline_s

    def admit(self, rows: int) -> Admitted:
        return self.engine.enter(self.runner.load_of(rows), time.perf_counter() + self.deadline_s)

    async def begins(self) -> None:
        await until(lambda: bool(self.runtime.runs))

    async def run(
        self, value: int, rows: int = 1, deadline: float | None = None, is_gone: Callable[[], bool] = lambda: False
    ) -> int:
        """One run, of which the result has to be its own."""
        due = time.perf_counter() + 60 if deadline is None else deadline
        ran = await self.engine.run(self.runner, {"x": np.array([value])}, rows, due, is_gone)
        assert ran.queue_s >= 0
        assert ran.run_s >= 0
        return int(ran.result["pctr"][0])

    def sheds(self) -> dict[str, float]:
        """Those counted, by reason."""
        (family,) = [family for family in self.metrics.families.collect() if family.name == "msd_shed"]
        return {sample.labels["reason"]: sample.value for sample in family.samples if sample.value}
