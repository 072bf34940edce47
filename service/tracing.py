"""Traces of a share of the scoring requests, sent asynchronously to an OpenTelemetry collector.

Sampling is decided after the reply, from times that are measured anyway: a request has one span, and one per stage.
Durations are those of `Server-Timing`; start times are derived backwards from the reply. The only file that needs
OpenTelemetry (extra `trace`).
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter
from starlette.types import Scope

from msd.contract.errors import MsdError
from service.http.exchange import Access
from service.telemetry.metrics import STAGES, Metrics

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# The documented paths, so that a caller's text never names a span.
_PLAIN, _INFER = ("/v1/score", "/v1/openrtb"), "/v2/models/{name}/infer"
MOST_WAITING = 2_048
"""Maximum requests that wait for the collector; further traces are dropped."""
# Small batches, so that the event loop never waits long for its turn.
_BATCH = 32
_EVERY_MS = 1_000.0
_CLOSE_WITHIN_S = 2.0
_SAY_AGAIN = 60
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("msd-ctr")
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_FAULTS_FROM = 500
_PROPAGATOR = TraceContextTextMapPropagator()
Headers = Iterable[tuple[bytes, bytes]]


class Tracing:
    """`share`: of requests without a `traceparent`. `note` is for the event loop."""

    def __init__(self, share: float, metrics: Metrics) -> None:
        """Raises MsdError if OpenTelemetry's variables do not name a collector."""
        # It logs this itself, less often.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._share = share
        self._counted = metrics.traces
        self._resource = Resource({"service.name": "msd-ctr"}).merge(OTELResourceDetector().detect())
        self._exporter = CountedExporter(metrics.traces)
        self._processor = BatchSpanProcessor(self._exporter, MOST_WAITING, _EVERY_MS, _BATCH)
        self._told = 0

    def note(self, scope: Scope, access: Access) -> str | None:
        """Queue a request for tracing, if it is sampled and there is room; return its trace's ID."""
        parent = parent_of(scope["headers"])
        if not (parent.trace_flags.sampled if parent.is_valid else random.random() < self._share):
            return None
        request = RequestSpan(scope, access, parent, self._resource)
        # The processor would silently drop the oldest.
        if self._told - self._exporter.taken >= MOST_WAITING:
            self._counted["dropped"].inc()
        else:
            self._told += 1
            self._processor.on_end(request)
        return f"{request.context.trace_id:032x}"

    async def close(self) -> None:
        """Send queued spans, within a short time."""
        closing = threading.Thread(target=self._processor.shutdown, name="traces-end", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_WITHIN_S)


class CountedExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter, called by its processor's thread. A slow or absent collector costs only traces, which
    are counted."""

    def __init__(self, counted: Mapping[str, Counter]) -> None:
        endpoint = _endpoint()
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise MsdError(
                f"{endpoint[:100]!r} is not a collector's address: expected http://HOST:4318"
                f" ({' or '.join(_ENDPOINTS)})"
            )
        super().__init__()
        self.taken = 0
        """Requests whose spans were sent or dropped."""
        self._counted = counted
        self._failures = 0
        self._said_by = structlog.get_logger("msd.tracing")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some requests' spans, and those of their stages."""
        try:
            stages = [stage for span in spans if isinstance(span, RequestSpan) for stage in span.stages()]
            result = super().export([*spans, *stages])
            reason = None if result is SpanExportResult.SUCCESS else "the collector did not take them"
        except Exception as error:  # of unreadable files, for example
            result, reason = SpanExportResult.FAILURE, repr(error)
        self.taken += len(spans)
        self._counted["failed" if reason else "sent"].inc(len(spans))
        if reason and self._failures % _SAY_AGAIN == 0:
            self._said_by.warning("traces_not_sent", endpoint=_endpoint(), reason=reason, times=self._failures + 1)
        self._failures = self._failures + 1 if reason else 0
        return result


def parent_of(headers: Headers) -> SpanContext:
    """Return the caller's span from `traceparent` (W3C Trace Context); an invalid one if there is none, several, or a
    malformed one."""
    found = [value.decode("latin-1") for name, value in headers if name == b"traceparent"]
    if len(found) != 1:
        return INVALID_SPAN_CONTEXT
    return get_current_span(_PROPAGATOR.extract({"traceparent": found})).get_span_context()


class RequestSpan(ReadableSpan):
    """A request's span. Spans of its stages are made when they are sent, because the event loop has no time."""

    def __init__(self, scope: Scope, access: Access, parent: SpanContext, sender: Resource) -> None:
        now = time.perf_counter()
        ended = access.ended or now
        ended_ns = time.time_ns() - round(1e9 * (now - ended))
        route = scope["path"] if scope["path"] in _PLAIN else _INFER
        super().__init__(
            f"POST {route}",
            _context(parent.trace_id or random.getrandbits(128) or 1),
            parent if parent.is_valid else None,
            sender,
            _attributes(route, access),
            kind=SpanKind.SERVER,
            status=_FAILED if (access.status or 500) >= _FAULTS_FROM else _UNSET,
            start_time=ended_ns - round(1e9 * (ended - access.started)),
            end_time=ended_ns,
            instrumentation_scope=_SCOPE,
        )
        self._stages_s = access.stages

    def stages(self) -> Iterator[ReadableSpan]:
        """Return the spans of its stages, the last first."""
        began_ns, end_ns = self.start_time or 0, self.end_time or 0
        for name, seconds in reversed(list(zip(STAGES, self._stages_s, strict=False))):
            start_ns, own = max(began_ns, end_ns - round(1e9 * seconds)), _context(self.context.trace_id)
            yield ReadableSpan(
                name,
                own,
                self.context,
                self.resource,
                start_time=start_ns,
                end_time=end_ns,
                instrumentation_scope=_SCOPE,
            )
            end_ns = start_ns


def _context(trace_id: int) -> SpanContext:
    return SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED)


def _attributes(route: str, access: Access) -> dict[str, str | int]:
    told: dict[str, str | int | None] = {
        "http.request.method": "POST",
        "http.route": route,
        "http.response.status_code": access.status or 500,
        "msd.request_id": access.request_id,
        "msd.degraded": sum(access.degraded.values()),
        "msd.candidates": access.candidates,
        "error.type": access.error,
    }
    return {name: value for name, value in told.items() if value is not None}


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
