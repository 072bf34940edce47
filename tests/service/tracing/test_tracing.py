"""Traces of a real service at a real collector; and what comes of them when that is slow, away, or none."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from msd.contract.bundle import Bundle
from msd.contract.errors import MsdError
from msd.free_port import free_port
from service.components import Components
from service.http.exchange import Access
from service.settings import Settings
from service.telemetry.metrics import STAGES, Metrics
from service.tracing import MOST_WAITING, Tracing
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until
from tests.service.tracing.collector import Collector, collecting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SPANS = 1 + len(STAGES)


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
        return [span for span in self.collector.spans if told(span).get("msd.request_id") == request_id]


def told(span: Span) -> dict[str, str | int]:
    """A span's attributes."""
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


@pytest.fixture(scope="module")
def watched(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A service that traces all requests whose callers do not decide."""
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENDPOINT, collector.url)
        patch.setenv("OTEL_SERVICE_NAME", "ads-of-today")
        folder = tmp_path_factory.mktemp("tracing")
        with live_service(bundle.folder, folder, workers=2, trace="on", trace_sample=1.0, log_level="debug") as service:
            yield Watched(service, collector)


def test_a_callers_trace_goes_on_with_a_span_for_each_stage(watched: Watched) -> None:
    request_id = watched.ask(f"00-{TRACE}-{SPAN}-01")
    root, *stages = sorted(watched.spans_of(request_id), key=lambda span: span.kind != Span.SPAN_KIND_SERVER)

    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.name) == (TRACE, SPAN, "POST /v1/score")
    assert told(root)["http.response.status_code"] == 200
    assert told(root)["msd.candidates"] == 2
    assert told(root)["msd.degraded"] == 2
    stages.sort(key=lambda span: (span.start_time_unix_nano, STAGES.index(span.name)))
    assert [span.name for span in stages] == list(STAGES)
    assert {span.parent_span_id for span in stages} == {root.span_id}
    assert len({span.span_id for span in (root, *stages)}) == SPANS
    for span in stages:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert watched.collector.resources[0]["service.name"] == "ads-of-today"
    lines = [line for line in watched.service.log() if line.get("request_id") == request_id]
    assert [line["trace_id"] for line in lines] == [TRACE]


def test_a_caller_that_does_not_record_its_trace_gets_none(watched: Watched) -> None:
    quiet = watched.ask(f"00-{TRACE}-{SPAN}-00")
    watched.spans_of(watched.ask(None))

    assert quiet not in {told(span).get("msd.request_id") for span in watched.collector.spans}


@pytest.mark.parametrize("parent", ["", "00-0-0-01", "ff-" + "a" * 200, b"\xff\x80\xfe", f"00-{'0' * 32}-{SPAN}-01"])
def test_a_hostile_parent_begins_a_fresh_trace(watched: Watched, parent: str | bytes) -> None:
    spans = watched.spans_of(watched.ask(parent))

    assert len(spans) == SPANS
    assert [span.name for span in spans if not span.parent_span_id] == ["POST /v1/score"]
    assert spans[0].trace_id.hex() != TRACE


def test_a_refused_request_has_a_span_without_stages(watched: Watched) -> None:
    (span,) = watched.spans_of(watched.ask(None, {"user_id": 1}))

    assert told(span)["http.response.status_code"] == 422
    assert told(span)["error.type"] == "invalid"
    assert span.status.code == span.status.STATUS_CODE_UNSET


def test_whichever_thread_scores_a_request_its_stages_are_told(watched: Watched) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: watched.ask(None), range(64)))

    assert {len(watched.spans_of(one)) for one in ids} == {SPANS}
    assert watched.service.metric('msd_traces_total{result="dropped"}') == 0


def sent(metrics: Metrics, result: str) -> float:
    """How many traces came to that."""
    samples = {
        sample.labels["result"]: sample.value
        for one in metrics.families.collect()
        for sample in one.samples
        if sample.name == "msd_traces_total"
    }
    return samples[result]


def test_what_a_slow_collector_does_not_take_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_address_that_is_none_keeps_a_service_from_starting(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "collector:4318")
    with pytest.raises(MsdError, match="'collector:4318' is not a collector's address"):
        Components(Settings(bundle=bundle.folder, trace=True), Metrics(), None)


def test_nothing_is_traced_unless_asked_for(bundle: Bundle) -> None:
    assert Components(Settings(bundle=bundle.folder), Metrics(), None).tracing is None
