"""A trace of a share of the scoring requests, sent to an OpenTelemetry collector; nothing waits for it.

Which requests are traced is decided after their reply, from times that are taken anyhow. What a caller says of its own
trace (W3C's Trace Context) is believed in nothing but its header `traceparent`; one that is not in order is no header.
"""

import asyncio
import random
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import Scope

from msd.contract.errors import MsdError
from service.settings import Settings
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:  # OpenTelemetry, which it needs, is an extra
    from service.http.access import Access
    from service.tracing.sender import Sender

# As they are documented, so that no span is named by what a caller writes.
_SCORE, _INFER = "/v1/score", "/v2/models/{name}/infer"
_HEADER = b"traceparent"
# Later versions may have more behind what the first one has.
_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_FIRST, _NEVER = b"00", b"ff"
_SAMPLED = 1


class Parent(NamedTuple):
    """The span of the caller that asks, and whether it is recorded there."""

    trace_id: int
    span_id: int
    is_sampled: bool


def parent_of(scope: Scope) -> Parent | None:
    """The parent that a request names; None where it names none, several, or what cannot be one."""
    found = [value for name, value in scope["headers"] if name == _HEADER]
    if len(found) != 1 or (match := _FORM.fullmatch(found[0])) is None:
        return None
    version, trace, span, flags, rest = match.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == _NEVER or (version == _FIRST and rest) or not trace_id or not span_id:
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


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
        from service.tracing.sender import Traced

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
