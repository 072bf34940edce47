"""Makes spans of traced requests and sends them to a collector, in a thread of its own.

A request becomes one span of itself and one of each stage. Their lengths are those that `Server-Timing` tells; where
they lie is worked out: one after the other, back from the reply. A collector that is slow or away costs traces, which
are counted, and nothing else: what waits is bounded.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from msd.contract.errors import MsdError
from service.telemetry.metrics import STAGES, Metrics

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MOST_WAITING = 2_048
# Few at once, so that the event loop never has to wait for long for its turn.
_BATCH = 32
_EVERY_S = 1.0
_CLOSE_WITHIN_S = 2.0
_SAY_AGAIN = 60
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


class Sender:
    """`tell` is for the event loop; all else is the thread's."""

    def __init__(self, metrics: Metrics) -> None:
        """Raises MsdError where the variables of OpenTelemetry do not name a collector."""
        # It says so itself, less often.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._counted = metrics.traces
        self._resource = resource()
        self._exporter = _exporter()
        self._waiting: deque[Traced] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._failures = 0
        self._log = structlog.get_logger("msd.tracing")

    def tell(self, traced: Traced) -> None:
        """Takes a trace to be sent, if there is room for it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
            self._thread.start()
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(traced)
        else:
            self._counted["dropped"].inc()

    def close(self) -> None:
        """Sends what is left, if that is done soon."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_WITHIN_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _work(self) -> None:
        while not self._closing.wait(_EVERY_S):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            reason = self._export(batch)
            self._counted["failed" if reason else "sent"].inc(len(batch))
            if reason and self._failures % _SAY_AGAIN == 0:
                self._log.warning("traces_not_sent", endpoint=_endpoint(), reason=reason, times=self._failures + 1)
            self._failures = self._failures + 1 if reason else 0

    def _export(self, batch: Sequence[Traced]) -> str | None:
        """Why some traces were not sent; None if they were."""
        try:
            spans = [span for traced in batch for span in spans_of(traced, self._resource)]
            return (
                None if self._exporter.export(spans) is SpanExportResult.SUCCESS else "the collector did not take them"
            )
        except Exception as error:  # of files that cannot be read, say: the thread is to outlive it
            return repr(error)


def _exporter() -> OTLPSpanExporter:
    endpoint = _endpoint()
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise MsdError(
            f"{endpoint[:100]!r} is not a collector's address: expected http://HOST:4318 ({' or '.join(_ENDPOINTS)})"
        )
    return OTLPSpanExporter()


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)


def resource() -> Resource:
    """Who sends spans: this service, unless the usual variables (`OTEL_SERVICE_NAME`) say otherwise."""
    return Resource({"service.name": "msd-ctr"}).merge(OTELResourceDetector().detect())


def spans_of(traced: Traced, sender: Resource) -> list[ReadableSpan]:
    """The request's span, then those of its stages."""
    context = _context(traced, traced.span_ids[0])
    began_ns = traced.ended_ns - round(1e9 * traced.seconds)
    request = ReadableSpan(
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
    spans, end_ns = [request], traced.ended_ns
    for name, seconds, span_id in reversed(list(zip(STAGES, traced.stages, traced.span_ids[1:], strict=False))):
        start_ns, own = max(began_ns, end_ns - round(1e9 * seconds)), _context(traced, span_id)
        spans.append(
            ReadableSpan(name, own, context, sender, start_time=start_ns, end_time=end_ns, instrumentation_scope=_SCOPE)
        )
        end_ns = start_ns
    return spans


def _context(traced: Traced, span_id: int, is_remote: bool = False) -> SpanContext:
    return SpanContext(traced.trace_id, span_id, is_remote, _SAMPLED)


def _attributes(traced: Traced) -> dict[str, str | int]:
    told: dict[str, str | int | None] = {
        "http.request.method": "POST",
        "http.route": traced.route,
        "http.response.status_code": traced.status,
        "msd.request_id": traced.request_id,
        "msd.degraded": traced.degraded,
        "msd.candidates": traced.candidates,
        "error.type": traced.error,
    }
    return {name: value for name, value in told.items() if value is not None}
