"""Which requests are traced, and what is told of one: decided and noted after its reply, from times that are taken
anyhow."""

import asyncio
import random
import time
from typing import TYPE_CHECKING

from starlette.types import Scope

from msd.contract.errors import MsdError
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.tracing.parent import parent_of

if TYPE_CHECKING:
    from service.http.access import Access
    from service.tracing.sender import Sender

# As they are documented, so that no span is named by what a caller writes.
_SCORE, _INFER = "/v1/score", "/v2/models/{name}/infer"


class Tracing:
    """`share`: of the requests whose caller says nothing of a trace."""

    def __init__(self, share: float, sender: "Sender") -> None:
        self._share = share
        self._sender = sender

    def note(self, scope: Scope, access: "Access") -> str | None:
        """Hands a request on that is to be traced; its trace's id."""
        parent = parent_of(scope)
        if not (random.random() < self._share if parent is None else parent.is_sampled):
            return None
        from service.tracing.spans import Traced

        trace_id = parent.trace_id if parent else random.getrandbits(128) or 1
        now = time.perf_counter()
        ended = access.ended or now
        self._sender.tell(
            Traced(
                route=_SCORE if scope["path"] == _SCORE else _INFER,
                trace_id=trace_id,
                parent_id=parent.span_id if parent else 0,
                span_ids=tuple(random.getrandbits(64) or 1 for _ in range(1 + len(access.stages))),
                ended_ns=time.time_ns() - round(1e9 * (now - ended)),
                seconds=ended - access.started,
                stages=access.stages,
                status=access.status or 500,
                request_id=access.request_id,
                candidates=access.candidates,
                degraded=sum(access.degraded.values()),
                error=access.error,
            )
        )
        return f"{trace_id:032x}"

    async def close(self) -> None:
        """Sends what is left, if that is done soon."""
        await asyncio.to_thread(self._sender.close)


def open_tracing(settings: Settings, metrics: Metrics) -> Tracing | None:
    """What traces requests, where that is asked for. Raises MsdError where it cannot be."""
    if not settings.trace:
        return None
    try:
        from service.tracing.sender import Sender
    except ModuleNotFoundError as error:
        raise MsdError(
            f"MSD_TRACE=on needs the module {error.name!r}, which is not installed: pip install 'msd-ctr[trace]'"
        ) from error
    return Tracing(settings.trace_sample, Sender(metrics))
