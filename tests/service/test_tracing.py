"""Traces of a real service at a real collector, which may be slow, away or none; and which `traceparent` is valid."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.free_port import free_port
from service.components import Components
from service.http.exchange import Access
from service.settings import Settings
from service.telemetry.metrics import STAGES, Metrics
from service.tracing import MOST_WAITING, Tracing, parent_of
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SPANS = 1 + len(STAGES)


class Collector:
    """An OpenTelemetry collector's spans. Exporters wait while `is_open` is not set."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.is_open = threading.Event()
        self.is_open.set()
        self.url = ""

    def take(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(
                {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
            )
            self.spans += [span for scope in group.scope_spans for span in scope.spans]

    def trace(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the end of the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.is_open.wait(60)
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            collector.is_open.set()
            server.shutdown()
            thread.join()


class Watched(NamedTuple):
    """A service that traces, and where it sends its traces to."""

    service: LiveService
    collector: Collector

    def ask(self, parent: str | bytes | None, document: object = None) -> str:
        """One request; its id. Any traceparent is to be answered as none is."""
        named = parent.encode() if isinstance(parent, str) else parent
        headers = {} if named is None else {b"traceparent": named}
        with self.service.client() as client:
            reply = client.post("/v1/score", json=document or golden_requests()[3], headers=headers)
        assert reply.status_code == (200 if document is None else 422)
        return reply.headers["x-request-id"]

    def spans_of(self, request_id: str) -> list[Span]:
        """The spans of the trace that a request's is of, once they are there."""
        wait_until(lambda: self._of(request_id))
        return self.collector.trace(self._of(request_id)[0].trace_id.hex())

    def _of(self, request_id: str) -> list[Span]:
        return [span for span in self.collector.spans if attributes(span).get("msd.request_id") == request_id]


def attributes(span: Span) -> dict[str, str | int]:
    return {attribute.key: attribute.value.string_value or attribute.value.int_value for attribute in span.attributes}


@pytest.fixture(scope="module")
def watched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A service that traces all requests whose callers do not decide."""
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT, collector.url)
        patch.setenv("OTEL_SERVICE_NAME", "ads-of-today")
        folder = tmp_path_factory.mktemp("tracing")
        with live_service(bundle.folder, folder, workers=2, trace="on", trace_sample=1.0, log_level="debug") as service:
            yield Watched(service, collector)


def test_callers_trace_goes_on_with_a_span_for_each_stage(watched: Watched) -> None:
    request_id = watched.ask(f"00-{TRACE}-{SPAN}-01")
    root, *stages = sorted(watched.spans_of(request_id), key=lambda span: span.kind != Span.SPAN_KIND_SERVER)

    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.name) == (TRACE, SPAN, "POST /v1/score")
    assert attributes(root)["http.response.status_code"] == 200
    assert attributes(root)["msd.candidates"] == 2
    assert attributes(root)["msd.degraded"] == 2
    stages.sort(key=lambda span: (span.start_time_unix_nano, STAGES.index(span.name)))
    assert [span.name for span in stages] == list(STAGES)
    assert {span.parent_span_id for span in stages} == {root.span_id}
    assert len({span.span_id for span in (root, *stages)}) == SPANS
    for span in stages:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert watched.collector.resources[0]["service.name"] == "ads-of-today"

    def traced() -> list[str]:
        return [line["trace_id"] for line in watched.service.log() if line.get("request_id") == request_id]

    wait_until(traced)
    assert traced() == [TRACE]


def test_hostile_parent_begins_a_fresh_trace(watched: Watched) -> None:
    hostile: list[str | bytes] = ["", "00-0-0-01", "ff-" + "a" * 200, b"\xff\x80\xfe", f"00-{'0' * 32}-{SPAN}-01"]
    for request_id in [watched.ask(parent) for parent in hostile]:
        spans = watched.spans_of(request_id)

        assert len(spans) == SPANS
        assert [span.name for span in spans if not span.parent_span_id] == ["POST /v1/score"]
        assert spans[0].trace_id.hex() != TRACE


def test_refused_request_has_a_span_without_stages(watched: Watched) -> None:
    (span,) = watched.spans_of(watched.ask(None, {"user_id": 1}))

    assert attributes(span)["http.response.status_code"] == 422
    assert attributes(span)["error.type"] == "invalid"
    assert span.status.code == span.status.STATUS_CODE_UNSET


def test_every_request_of_many_threads_has_its_stages(watched: Watched) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: watched.ask(None), range(64)))

    assert {len(watched.spans_of(id_)) for id_ in ids} == {SPANS}
    assert watched.service.metric('msd_traces_total{result="dropped"}') == 0


def sent(metrics: Metrics, result: str) -> float:
    found = metrics.families.get_sample_value("msd_traces_total", {"result": result})
    assert found is not None
    return found


def test_traces_that_a_slow_collector_leaves_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        collector.is_open.clear()
        monkeypatch.setenv(ENDPOINT, collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        metrics = Metrics()
        tracing, access = Tracing(1.0, metrics), Access("r1", 0.0, 0.01, 200, stages=(0.001,) * len(STAGES))
        asked = MOST_WAITING + 10
        for _ in range(asked):
            tracing.note({"path": "/v1/score", "headers": []}, access)
        # None is on its way that could make room.
        assert sent(metrics, "dropped") == 10
        collector.is_open.set()
        wait_until(lambda: sent(metrics, "sent") == asked - 10)
        asyncio.run(tracing.close())

    assert sent(metrics, "failed") == 0
    assert len(collector.spans) == SPANS * sent(metrics, "sent")


def test_without_a_collector_traces_are_lost_and_nothing_else(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with live_service(bundle.folder, tmp_path, trace="on", trace_sample=1.0) as service:
        assert service.score(golden_requests()[0]).status_code == 200
        wait_until(lambda: service.metric('msd_traces_total{result="failed"}') == 1)
        assert service.score(golden_requests()[0]).status_code == 200
        assert service.terminate() == 0
        assert [line["event"] for line in service.log() if "trace" in line["event"]] == ["traces_not_sent"]


def test_invalid_collector_address_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "collector:4318")
    with pytest.raises(MsdError, match="'collector:4318' is not a collector's address"):
        Components(Settings(bundle=bundle.folder, trace=True), Metrics(), None)
    # By default nothing is traced.
    assert Components(Settings(bundle=bundle.folder), Metrics(), None).tracing is None


GOOD = f"00-{TRACE}-{SPAN}-01"


def parent(*values: str | bytes) -> tuple[int, int, bool] | None:
    encoded = [value.encode("latin-1") if isinstance(value, str) else value for value in values]
    found = parent_of([(b"host", b"x"), *((b"traceparent", value) for value in encoded)])
    return (found.trace_id, found.span_id, found.trace_flags.sampled) if found.is_valid else None


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (GOOD, True),
        (GOOD[:-2] + "00", False),
        (GOOD[:-2] + "03", True),
        (GOOD[:-2] + "fe", False),
        (f"01-{TRACE}-{SPAN}-01-what-will-be", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
    ],
)
def test_valid_parent_is_continued(value: str, is_sampled: bool) -> None:
    assert parent(value) == (int(TRACE, 16), int(SPAN, 16), is_sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD + "-more",
        GOOD[:-1],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        GOOD.replace("b7", "é7"),
        "00-" + "a" * 30_000,
    ],
)
def test_malformed_parent_counts_as_absent(value: str) -> None:
    assert parent(value) is parent() is parent(GOOD, GOOD) is None
