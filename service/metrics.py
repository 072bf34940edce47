"""Every metric family of the service, its buckets and its labels, which come from closed sets.

One registry an app, none global. Does not know when things happen.
"""

import time
from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from msd.contract.assemble import Rung
from msd.contract.rows import RowSide
from service.runtimes.runtime import Engine

Stage = Literal["parse", "rows", "queue", "run", "reply"]
STAGES: tuple[Stage, ...] = ("parse", "rows", "queue", "run", "reply")
RUNGS: tuple[str, ...] = ("user_unknown", "category_prior", "prior")
CODES = (200, 400, 408, 413, 415, 422, 429, 499, 500, 503, 504)
_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_STAGE_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)
_CANDIDATES = (1, 10, 25, 50, 100, 200, 350, 500, 1000, 2000)


class Metrics:
    """The families of one app. All label values exist from the start, so that rates can be taken of them."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        requests = Counter(
            "msd_requests", "Scoring requests by status; 499 is a client that left.", ["code"], registry=registry
        )
        self._requests = {code: requests.labels(str(code)) for code in CODES}
        self._request_seconds = Histogram(
            "msd_request_seconds", "From the first byte read to the reply.", buckets=_SECONDS, registry=registry
        )
        stages = Histogram(
            "msd_stage_seconds", "Parts of a scoring request.", ["stage"], buckets=_STAGE_SECONDS, registry=registry
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self.candidates = Histogram(
            "msd_request_candidates", "Candidates a scored request.", buckets=_CANDIDATES, registry=registry
        )
        degraded = Counter(
            "msd_degraded", "Candidates, and users, scored from less than their row.", ["rung"], registry=registry
        )
        self._degraded = {rung: degraded.labels(rung) for rung in RUNGS}
        self.store_errors = Counter("msd_store_errors", "Reads that the row store failed.", registry=registry)
        damaged = Counter(
            "msd_damaged_rows", "Rows read that were short or another bundle's.", ["side"], registry=registry
        )
        self._damaged = {side: damaged.labels(side) for side in ("user", "item")}
        self._bundle = Gauge(
            "msd_bundle_info",
            "1 for the bundle that is served.",
            ["bundle_id", "model_version", "store"],
            registry=registry,
        )
        self._runtime = Gauge(
            "msd_runtime_info",
            "1 for what runs the model, as it was read back after loading.",
            ["runtime", "version", "provider", "threads", "precision", "instructions"],
            registry=registry,
        )
        self.ready = Gauge("msd_ready", "1 when requests are answered.", registry=registry)
        self.queued_rows = Gauge("msd_queued_rows", "Candidates taken on and not yet scored.", registry=registry)

    def request(self, code: int, seconds: float) -> None:
        """Counts a scoring request that ended with `code`."""
        self._requests[code].inc()
        self._request_seconds.observe(seconds)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Observes how long the block takes, however it ends."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages[stage].observe(time.perf_counter() - started)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Observes a stage that was timed elsewhere."""
        self._stages[stage].observe(seconds)

    def degraded(self, candidates: Iterable[Rung], user_unknown: bool) -> None:
        """Counts what a reply declares as degraded."""
        if user_unknown:
            self._degraded["user_unknown"].inc()
        for rung, count in Tally(candidates).items():
            self._degraded[rung].inc(count)

    def damaged(self, side: RowSide, count: int) -> None:
        """Counts rows that were not usable."""
        if count:
            self._damaged[side].inc(count)

    def bundle(self, bundle_id: str, model_version: str, store: str) -> None:
        """Says which bundle is served."""
        self._bundle.labels(bundle_id, model_version, store).set(1)

    def runtime(self, engine: Engine) -> None:
        """Says what runs the model."""
        instructions = " ".join(engine.instructions)
        given = (engine.name, engine.version, engine.provider, str(engine.threads), engine.precision, instructions)
        self._runtime.labels(*given).set(1)

    def exposition(self) -> bytes:
        """All families in Prometheus's text format."""
        return generate_latest(self._registry)
