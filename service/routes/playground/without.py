"""The second model of the playground: a bundle of its own, trained without the LLM's knowledge, which nobody else asks.

Scored by the same ways as all requests: it waits in the same queue, and may be refused for the same reasons.
"""

import asyncio

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from msd.contract.errors import MsdError
from service.deployment.aside import Aside
from service.deployment.proof import Proof
from service.errors import NotReady
from service.models.assignment import Assignment
from service.models.lineup import Arm, Lineup
from service.models.model import Model, load_model
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.trust import Trust

_NAME = "without"


class Alone:
    """A line-up of one model, which never changes."""

    def __init__(self, model: Model) -> None:
        self.current = Lineup(0, (Arm(_NAME, model),), Assignment("", [_NAME], [1.0]))


class ProvedRoute:
    """A scoring route over one model, which answers once that has been proved."""

    def __init__(self, route: ASGIApp, model: Model, max_candidates: int) -> None:
        self._route, self._model, self._max_candidates = route, model, max_candidates
        self._missing = "the model without the LLM's knowledge is warming up"
        self._log = structlog.get_logger("msd.playground")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises NotReady too."""
        if self._missing:
            raise NotReady(f"not ready: {self._missing}")
        await self._route(scope, receive, send)

    async def prove(self) -> None:
        """Proves the model; what is wrong with it is said to whoever asks, and in the log."""
        with Aside("proof", rest=0.0) as aside:
            try:
                await Proof(self._model, aside, self._max_candidates).run()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._missing = (
                    str(error) if isinstance(error, MsdError) else "the model failed; the log has the reason"
                )
                self._log.error("not_ready", part="without", reason=str(error))
            else:
                self._missing = ""


def load_without(settings: Settings, metrics: Metrics) -> Model | None:
    """None where the settings name none. Raises MsdError when it is not as it should be."""
    folder = settings.playground_without
    if folder is None:
        return None
    bundle = Trust(settings.trusted_keys).open(folder)
    # Its rows are its own files', wherever those of the bundle that is served are.
    own = settings.model_copy(update={"bundle": folder, "store": "file", "merge": "off"})
    return load_model(bundle, own, metrics)
