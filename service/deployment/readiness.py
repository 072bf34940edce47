"""Readiness: whether the service can answer, and what it waits for; and the work that makes it ready.

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
    """What is missing, by part; empty if the service is ready."""

    def __init__(self, metrics: Metrics, hangs: Callable[[], Mapping[str, str]] = dict) -> None:
        """`hangs` returns the reason by hanging part."""
        self.hangs = hangs
        self.missing = {"model": "warming up", "store": "not yet checked"}
        self.loading: dict[str, str] = {}
        """By part, the effect on scores until it is loaded; it does not delay readiness."""
        self.draining = False
        self._metrics = metrics

    @property
    def is_ready(self) -> bool:
        """Return whether to send new requests here."""
        return not self.missing and not self.draining and not self.hangs()

    def check(self) -> None:
        """Raise NotReady if a request cannot be answered; while the service drains, it can."""
        if self.missing:
            raise NotReady("not ready: " + "; ".join(f"{part}: {reason}" for part, reason in self.missing.items()))

    def arrived(self, part: str) -> None:
        self.missing.pop(part, None)
        self._metrics.ready.set(self.is_ready)

    def proved(self) -> None:
        """Mark everything as ready: a proved line-up serves, and its store was reached."""
        self.missing.clear()
        self._metrics.ready.set(self.is_ready)

    def drain(self) -> None:
        """Start draining: requests are answered, but new ones should go elsewhere."""
        self.draining = True
        self._metrics.ready.set(False)


class Starter:
    """Makes the service ready for its first line-up: proves the models, and waits for their store."""

    def __init__(self, readiness: Readiness, max_candidates: int) -> None:
        self._readiness = readiness
        self._max_candidates = max_candidates
        self._starting: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("msd.readiness")

    def begin(self, models: Sequence[Model]) -> None:
        """Run until the service is ready, or cannot become so. Readiness reports what is missing meanwhile."""
        self._starting = asyncio.create_task(self._start(models))

    def end(self) -> None:
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
    """Prove models in the background. Return what is wrong with them, which is also logged; empty if nothing is."""
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
