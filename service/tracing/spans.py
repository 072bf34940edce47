"""A request that was answered, as spans: one of it, and one of each of its stages.

Their lengths are those that `Server-Timing` tells. Where they lie is worked out: one after the other, back from the
reply.
"""

from typing import NamedTuple

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from service.telemetry.metrics import STAGES

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("msd-ctr")
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_FAULTS_FROM = 500


class Traced(NamedTuple):
    """One request: when it ended, in unix nanoseconds, how long it took in all and by stage, and what came of it.

    `stages` are in the order of `STAGES`, none of a request that was not scored. `span_ids`: of the request and each
    stage; `parent_id` is 0 of a trace that began here.
    """

    route: str
    trace_id: int
    parent_id: int
    span_ids: tuple[int, ...]
    ended_ns: int
    seconds: float
    stages: tuple[float, ...]
    status: int
    request_id: str
    candidates: int | None
    degraded: int
    error: str | None


def resource() -> Resource:
    """Who sends spans: this service, unless the usual variables (`OTEL_SERVICE_NAME`) say otherwise."""
    return Resource({"service.name": "msd-ctr"}).merge(OTELResourceDetector().detect())


def spans_of(traced: Traced, sender: Resource) -> list[ReadableSpan]:
    """The request's span, then those of its stages."""
    context = _context(traced, traced.span_ids[0])
    began_ns = traced.ended_ns - round(1e9 * traced.seconds)
    spans = [
        ReadableSpan(
            f"POST {traced.route}",
            context,
            _context(traced, traced.parent_id, is_remote=True) if traced.parent_id else None,
            sender,
            _attributes(traced),
            kind=SpanKind.SERVER,
            status=_FAILED if traced.status >= _FAULTS_FROM else _UNSET,
            start_time=began_ns,
            end_time=traced.ended_ns,
            instrumentation_scope=_SCOPE,
        )
    ]
    end_ns = traced.ended_ns
    for name, seconds, span_id in reversed(list(zip(STAGES, traced.stages, traced.span_ids[1:], strict=False))):
        start_ns = max(began_ns, end_ns - round(1e9 * seconds))
        spans.append(
            ReadableSpan(
                name,
                _context(traced, span_id),
                context,
                sender,
                start_time=start_ns,
                end_time=end_ns,
                instrumentation_scope=_SCOPE,
            )
        )
        end_ns = start_ns
    return spans


def _context(traced: Traced, span_id: int, is_remote: bool = False) -> SpanContext:
    return SpanContext(traced.trace_id, span_id, is_remote, _SAMPLED)


def _attributes(traced: Traced) -> dict[str, str | int]:
    told: dict[str, str | int] = {
        "http.request.method": "POST",
        "http.route": traced.route,
        "http.response.status_code": traced.status,
        "msd.request_id": traced.request_id,
        "msd.degraded": traced.degraded,
    }
    if traced.candidates is not None:
        told["msd.candidates"] = traced.candidates
    if traced.error is not None:
        told["error.type"] = traced.error
    return told
