"""Readiness: whether the service can answer, and what it waits for; and the work that makes it ready.

Once ready, a lost store does not make it unready: a degraded score is worth more to an ad server than none.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from structlog.typing import FilteringBoundLogger

from msd.contract.errors import MsdError
from service.deployment.proof import Pace, prove
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
        self.changed: Callable[[], None] = lambda: None
        """Called when something has arrived."""
        self._metrics = metrics

    @property
    def is_ready(self) -> bool:
        return not self.missing and not self.draining and not self.hangs()

    def check(self) -> None:
        """Raise NotReady if a request cannot be answered; while the service drains, it can."""
        if self.missing:
            raise NotReady("not ready: " + "; ".join(f"{part}: {reason}" for part, reason in self.missing.items()))

    def arrived(self, *parts: str) -> None:
        for part in parts:
            self.missing.pop(part, None)
        self.changed()
        self._metrics.ready.set(self.is_ready)

    def drain(self) -> None:
        """Start draining: requests are answered, but new ones should go elsewhere."""
        self.draining = True
        self._metrics.ready.set(False)


async def make_ready(readiness: Readiness, models: Sequence[Model], max_candidates: int) -> None:
    """Prove the first deployment's models, and wait for their store. `readiness` reports what is missing meanwhile."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_await_store(readiness, models))
        if reason := await why_not_proved(models, max_candidates, "model"):
            readiness.missing["model"] = reason
        else:
            readiness.arrived("model")
            _log().info("model_ready")


async def _await_store(readiness: Readiness, models: Sequence[Model]) -> None:
    wait = _FIRST_RETRY_S
    while True:
        try:
            for model in models:
                await model.store.check()
        except StoreError as error:
            if readiness.missing["store"] != str(error):
                _log().warning("not_ready", part="store", reason=str(error))
            readiness.missing["store"] = str(error)
        except Exception as error:
            readiness.missing["store"] = "the check failed; the log has the reason"
            _log().exception("not_ready", part="store", reason=str(error))
        else:
            readiness.arrived("store")
            _log().info("store_ready", store=models[0].store.name)
            return
        await asyncio.sleep(wait)
        wait = min(2 * wait, _LAST_RETRY_S)


async def why_not_proved(models: Sequence[Model], max_candidates: int, part: str) -> str:
    """Prove models in a thread. Return what is wrong with them, which is also logged; empty if nothing is."""
    pace = Pace()

    def prove_all() -> None:
        for model in models:
            prove(model, max_candidates, pace)

    try:
        await asyncio.to_thread(prove_all)
    except MsdError as error:
        _log().error("not_ready", part=part, reason=str(error))
        return str(error)
    except Exception as error:
        _log().exception("not_ready", part=part, reason=str(error))
        return "the model failed on a golden; the log has the reason"
    finally:
        pace.stop()
    return ""


def _log() -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.get_logger("msd.readiness")
    return log
