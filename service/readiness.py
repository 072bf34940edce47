"""Whether the service may answer, and if not, what it is waiting for; and the work that makes it ready.

Once ready, a lost store does not make it unready: a degraded score is worth more to an ad server than none.
"""

import asyncio
import time

import numpy as np
import structlog

from msd.contract.assemble import Tensors
from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.errors import BundleError, MsdError
from msd.contract.golden import Golden, golden_tensors, read_goldens
from msd.contract.rows import RowCodec
from service.errors import ServiceError
from service.metrics import Metrics
from service.run_queue import RunQueue
from service.runtimes.runtime import Runtime, Scores
from service.stores.store import RowStore, StoreError

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
_WARM_UP_S = 600.0


class Readiness:
    """What is missing by part, in words; empty when the service is ready."""

    def __init__(self, metrics: Metrics) -> None:
        self.missing = {"model": "warming up", "store": "not yet checked"}
        self.draining = False
        self._metrics = metrics

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return not self.missing and not self.draining

    @property
    def can_score(self) -> bool:
        """Whether a request that came is answered: while it drains, it is."""
        return not self.missing

    def summary(self) -> str:
        """What is missing, in one line."""
        return "; ".join(f"{part}: {reason}" for part, reason in self.missing.items())

    def arrived(self, part: str) -> None:
        """The part is there."""
        self.missing.pop(part, None)
        self._metrics.is_ready(self.is_ready)

    def drain(self) -> None:
        """The service stops soon: it answers, but wants no new requests."""
        self.draining = True
        self._metrics.is_ready(False)


class Starter:
    """Makes the service ready: warms the model and reproduces the goldens, and waits for the store."""

    def __init__(
        self, bundle: Bundle, runtime: Runtime, queue: RunQueue, store: RowStore, readiness: Readiness
    ) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._queue = queue
        self._store = store
        self._readiness = readiness
        self._log = structlog.get_logger("msd.readiness")

    async def start(self, max_candidates: int) -> None:
        """Ends when the service is ready, or never can be. What is missing is in the readiness meanwhile."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._warm_up(max_candidates))
            group.create_task(self._await_store())

    async def _warm_up(self, max_candidates: int) -> None:
        try:
            await self._reproduce_goldens(max_candidates)
        except (MsdError, ServiceError) as error:
            self._readiness.missing["model"] = str(error)
            self._log.error("not_ready", part="model", reason=str(error))
        except Exception as error:
            self._readiness.missing["model"] = "the model failed on a golden; the log has the reason"
            self._log.exception("not_ready", part="model", reason=str(error))
        else:
            self._readiness.arrived("model")
            self._log.info("model_ready")

    async def _reproduce_goldens(self, max_candidates: int) -> None:
        bundle = self._bundle
        tolerance = bundle.manifest.tolerances.get(self._runtime.engine.key)
        if tolerance is None:
            known = ", ".join(bundle.manifest.tolerances) or "none"
            raise BundleError(f"the manifest has no tolerance for {self._runtime.engine.key!r}; it has: {known}")
        users = RowCodec(bundle.schema, "user", bundle.bundle_id)
        items = RowCodec(bundle.schema, "item", bundle.bundle_id)
        number = 0
        for number, golden in enumerate(read_goldens(bundle.path(GOLDENS)), start=1):
            tensors = golden_tensors(bundle.schema, users, items, golden).tensors
            if number == 1:
                await self._grow(tensors, max_candidates)
            difference = _greatest_difference(golden, await self._run(tensors))
            if not difference <= tolerance:
                raise BundleError(
                    f"golden {number} differs by {difference:.3g} from what the bundle expects"
                    f" (at most {tolerance:.3g} for {self._runtime.engine.key})"
                )
        if number == 0:
            raise BundleError(f"{bundle.path(GOLDENS)}: holds no goldens to prove the model by")

    async def _grow(self, tensors: Tensors, max_candidates: int) -> None:
        """Runs with the numbers of candidates that the runtime names, so that no request pays for the first time."""
        sides = {spec.name: spec.side for spec in self._bundle.schema.tensors}
        for size in self._runtime.warm_up_sizes(max_candidates):
            await self._run(
                {
                    name: np.resize(tensor, (size, *tensor.shape[1:])) if sides[name] == "item" else tensor
                    for name, tensor in tensors.items()
                }
            )

    async def _run(self, tensors: Tensors) -> Scores:
        count = next(len(tensors[spec.name]) for spec in self._bundle.schema.tensors if spec.side == "item")
        ran = await self._queue.run(tensors, count, time.perf_counter() + _WARM_UP_S, lambda: False)
        return ran.scores

    async def _await_store(self) -> None:
        wait = _FIRST_RETRY_S
        while True:
            try:
                await self._store.check()
            except StoreError as error:
                if self._readiness.missing["store"] != str(error):
                    self._log.warning("not_ready", part="store", reason=str(error))
                self._readiness.missing["store"] = str(error)
            except Exception as error:
                self._readiness.missing["store"] = "the check failed; the log has the reason"
                self._log.exception("not_ready", part="store", reason=str(error))
            else:
                self._readiness.arrived("store")
                self._log.info("store_ready", store=self._store.name)
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_RETRY_S)


def _greatest_difference(golden: Golden, scores: Scores) -> float:
    """Infinite when a head has no expected scores, or not one a candidate; NaN when a score is."""
    differences = []
    for head, column in scores.items():
        expected = golden.expected.get(head, [])
        if len(expected) != len(column):
            return float("inf")
        differences.append(np.max(np.abs(column - np.array(expected))))
    return float(np.max(differences))
