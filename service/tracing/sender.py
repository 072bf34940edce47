"""Sends traces to a collector, in a thread of its own. One that is slow or away costs traces, which are counted, and
nothing else: what waits is bounded.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from msd.contract.errors import MsdError
from service.telemetry.metrics import Metrics
from service.tracing.spans import Traced, resource, spans_of

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MOST_WAITING = 2_048
# Few at once, so that the event loop never has to wait for long for its turn.
_BATCH = 32
_EVERY_S = 1.0
_CLOSE_WITHIN_S = 2.0
_SAY_AGAIN = 60


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
            spans = [span for traced in batch for span in spans_of(traced, self._resource)]
            is_sent = self._export(spans)
            self._counted["sent" if is_sent else "failed"].inc(len(batch))
            self._note(is_sent)

    def _export(self, spans: Sequence[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # of files that cannot be read, say: the thread is to outlive it
            self._log.warning("traces_not_sent", endpoint=_endpoint(), reason=str(error))
            return False

    def _note(self, is_sent: bool) -> None:
        if is_sent:
            self._failures = 0
            return
        if self._failures % _SAY_AGAIN == 0:
            self._log.warning("traces_not_sent", endpoint=_endpoint(), times=self._failures + 1)
        self._failures += 1


def _exporter() -> OTLPSpanExporter:
    endpoint = _endpoint()
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise MsdError(
            f"{endpoint[:100]!r} is no collector's address: write http://HOST:4318 ({' or '.join(_ENDPOINTS)})"
        )
    return OTLPSpanExporter()


def _endpoint() -> str | None:
    return next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
