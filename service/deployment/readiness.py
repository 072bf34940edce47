"""Whether the service may answer, and if not, what it is waiting for; and the work that makes it ready.

Once ready, a lost store does not make it unready: a degraded score is worth more to an ad server than none.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from msd.contract.errors import MsdError
from service.deployment.proof import prove_beside
from service.errors import NotReady, StoreError
from service.scoring.model import Model
from service.telemetry.metrics import Metrics

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0


class Readiness:
    """What is missing by part, in words; empty when the service is ready."""

    def __init__(self, metrics: Metrics, hangs: Callable[[], Mapping[str, str]] = dict) -> None:
        """`hangs`: the reason by part that hangs now."""
        self.hangs = hangs
        self.missing = {"model": "warming up", "store": "not yet checked"}
        self.loading: dict[str, str] = {}
        """By part, what becomes of scores until it is loaded; nobody waits for that."""
        self.draining = False
        self._metrics = metrics

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return not self.missing and not self.draining and not self.hangs()

    def check(self) -> None:
        """Raise NotReady if a request that came cannot be answered; while the service drains, it is."""
        if self.missing:
            raise NotReady("not ready: " + "; ".join(f"{part}: {reason}" for part, reason in self.missing.items()))

    def arrived(self, part: str) -> None:
        """The part is there."""
        self.missing.pop(part, None)
        self._metrics.ready.set(self.is_ready)

    def proved(self) -> None:
        """Another line-up serves, which was proved before, and whose store was reached."""
        self.missing.clear()
        self._metrics.ready.set(self.is_ready)

    def drain(self) -> None:
        """The service stops soon: it answers, but wants no new requests."""
        self.draining = True
        self._metrics.ready.set(False)


class Starter:
    """Makes the service ready for what it serves first: proves the models, and waits for their store."""

    def __init__(self, readiness: Readiness, max_candidates: int) -> None:
        self._readiness = readiness
        self._max_candidates = max_candidates
        self._starting: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("msd.readiness")

    def begin(self, models: Sequence[Model]) -> None:
        """Until the service is ready, or never can be. What is missing is in the readiness meanwhile."""
        self._starting = asyncio.create_task(self._start(models))

    def end(self) -> None:
        """It is not to be made ready for that any more."""
        if self._starting is not None:
            self._starting.cancel()

    async def _start(self, models: Sequence[Model]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._warm_up(models))
            group.create_task(self._await_store(models))

    async def _warm_up(self, models: Sequence[Model]) -> None:
        if reason := await why_not_proved(models, self._max_candidates, "model"):
            self._readiness.missing["model"] = reason
        else:
            self._readiness.arrived("model")
            self._log.info("model_ready")

    async def _await_store(self, models: Sequence[Model]) -> None:
        wait = _FIRST_RETRY_S
        while True:
            try:
                for model in models:
                    await model.store.check()
            except StoreError as error:
                if self._readiness.missing["store"] != str(error):
                    self._log.warning("not_ready", part="store", reason=str(error))
                self._readiness.missing["store"] = str(error)
            except Exception as error:
                self._readiness.missing["store"] = "the check failed; the log has the reason"
                self._log.exception("not_ready", part="store", reason=str(error))
            else:
                self._readiness.arrived("store")
                self._log.info("store_ready", store=models[0].store.name)
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_RETRY_S)


async def why_not_proved(models: Sequence[Model], max_candidates: int, part: str) -> str:
    """Proves models, beside requests. What is wrong with them, which the log says, too; empty where nothing is."""
    log = structlog.get_logger("msd.readiness")
    try:
        await prove_beside(models, max_candidates)
    except MsdError as error:
        log.error("not_ready", part=part, reason=str(error))
        return str(error)
    except Exception as error:
        log.exception("not_ready", part=part, reason=str(error))
        return "the model failed on a golden; the log has the reason"
    return ""
