"""Metrics: what is counted is exposed, exactly, whichever threads count."""

import math
import re
import threading
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import native
from msd.contract.bundle import Bundle
from msd.contract.instructions import cpu_instructions
from service.settings import Settings
from service.telemetry.metrics import RUNGS, STAGES, Metrics
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Run `work` in several threads that start together."""
    start = threading.Barrier(count)

    def run() -> None:
        start.wait()
        work()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_requests_are_counted_by_status_and_scored_ones_are_timed() -> None:
    metrics = Metrics()
    metrics.request(200, 0.002)
    metrics.request(200, 0.3)
    metrics.request(429, 0.0001)
    metrics.request(418, 0.1)  # a status without a child of its own
    metrics.event_request(202, 0.1)
    metrics.event_request(418, 0.1)
    found = samples(metrics)

    assert [found[f"msd_requests_total|{status}"] for status in (200, 429, 418)] == [2, 1, 1]
    assert found["msd_event_requests_total|418"] == found["msd_event_request_seconds_count"] == 1
    # The refusal would make scoring look fast.
    assert found["msd_request_seconds_count"] == 2
    assert found["msd_request_seconds_sum"] == pytest.approx(0.302)
    assert found["msd_request_seconds_bucket|0.002"] == 1


def test_every_family_has_a_help_text_and_no_creation_time() -> None:
    metrics = Metrics()
    families, found = list(text_string_to_metric_families(metrics.exposition().decode())), samples(metrics)

    assert len(families) > 50
    assert [
        family.name for family in families if not family.documentation.endswith(".") or family.type == "unknown"
    ] == []
    assert not [name for name in found if "_created" in name]
    # An unknown value is no number.
    assert math.isnan(found["msd_newest_event_timestamp_seconds"])


def test_threads_lose_no_counts() -> None:
    metrics, turns, threads = Metrics(), 5_000, 4

    def count() -> None:
        for _ in range(turns):
            metrics.sheds["wait"].inc()
            metrics.stages["run"].observe(0.5)
            metrics.connections.inc(2)
            metrics.connections.inc(-1)

    in_threads(threads, count)
    found = samples(metrics)

    assert found["msd_shed_total|wait"] == turns * threads
    assert found["msd_stage_seconds_count|run"] == turns * threads
    assert found["msd_stage_seconds_sum|run"] == pytest.approx(0.5 * turns * threads)
    assert found["msd_connections"] == turns * threads


@settings(max_examples=30)
@given(st.lists(st.sampled_from([1e-5, 1e-3, 0.25, 5.0]) | st.floats(0, 10), max_size=30))
def test_histogram_counts_every_value_once_where_it_belongs(values: list[float]) -> None:
    metrics = Metrics()
    for value in values:
        metrics.stages["run"].observe(value)
    buckets = {
        float(name.split("|")[1]): count
        for name, count in samples(metrics).items()
        if name.startswith("msd_stage_seconds_bucket|") and name.endswith("|run")
    }

    assert len(buckets) > 10
    assert buckets == {bound: sum(value <= bound for value in values) for bound in buckets}


def test_drift_is_that_of_the_served_bundle(bundle: Bundle, other_bundle: Bundle) -> None:
    metrics, served, other = Metrics(), bundle.manifest, other_bundle.manifest
    metrics.reference(served)
    metrics.drift(served.sha256, {"price": 0.1, "age": float("nan")}, {"pctr": 0.2})
    metrics.drift(other.sha256, {"price": 0.9, "age": 0.9}, {"pctr": 0.9})

    def psi() -> dict[str, float]:
        return {name: value for name, value in samples(metrics).items() if "_psi" in name}

    assert psi() == {"msd_input_psi|price": 0.1, "msd_score_psi|pctr": 0.2}
    metrics.reference(served)
    assert len(psi()) == 2
    metrics.reference(other)
    assert psi() == {}
    metrics.drift(served.sha256, {"price": 0.1}, {"pctr": 0.2})
    assert psi() == {}


def test_served_bundles_are_replaced_without_a_gap() -> None:
    metrics = Metrics()
    is_over = threading.Event()

    def serve(version: int) -> None:
        metrics.serves([(f"id-{version}", str(version), "file")], [], [(("1", "only", f"id-{version}"), 1.0)])

    def swap() -> None:
        version = 0
        while not is_over.is_set():
            version += 1
            serve(version)

    serve(0)
    thread = threading.Thread(target=swap)
    thread.start()
    looks, seen = 0, set[str]()
    while looks < 30 or len(seen) < 3:
        looks += 1
        (name,) = (name for name in samples(metrics) if name.startswith("msd_bundle_info"))
        seen.add(name)
    is_over.set()
    thread.join()
    serve(7)

    assert [name for name in samples(metrics) if name.startswith(("msd_bundle_info", "msd_arm_share"))] == [
        "msd_arm_share|only|id-7|1",
        "msd_bundle_info|id-7|7|file",
    ]


def test_model_route_describes_the_served_bundle(service: LiveService, bundle: Bundle) -> None:
    with service.client() as client:
        model = client.get("/v1/model").json()

    assert model["bundle_id"] == bundle.bundle_id
    assert model["heads"] == ["pctr", "pcvr"]
    assert {one["name"] for one in model["features"]["user"]} == {"gender", "interests", "age"}
    assert {one["name"] for one in model["features"]["item"]} == {"category", "genres", "price"}
    assert {one["name"] for one in model["features"]["context"]} == {"hour", "device", "temperature"}
    assert model["runtime"] == {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": "cpu",
        "threads": 1,
        "precision": "fp32",
        "instructions": list(cpu_instructions()),
        "device": "",
    }
    assert model["native"] == native.INSTRUCTIONS
    assert (model["store"], model["metrics"]) == ("file", {"auc": 0.75})


def test_all_series_exist_from_the_start(service: LiveService, bundle: Bundle) -> None:
    with service.client() as client:
        answer = client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain")
    for code in (200, 400, 408, 413, 415, 422, 429, 499, 500, 503, 504):
        assert f'msd_requests_total{{code="{code}"}}' in answer.text
    for stage in STAGES:
        assert f'msd_stage_seconds_bucket{{le="+Inf",stage="{stage}"}}' in answer.text
    for side, rungs in RUNGS.items():
        for rung in rungs:
            assert f'msd_degraded_total{{rung="{rung}",side="{side}"}}' in answer.text
    for sample in ("msd_store_errors_total 0.0", "msd_ready 1.0", "process_resident_memory_bytes"):
        assert sample in answer.text
    assert f'bundle_id="{bundle.bundle_id}"' in answer.text
    (runtime,) = (line for line in answer.text.splitlines() if line.startswith("msd_runtime_info{"))
    assert 'precision="fp32",provider="cpu",runtime="onnxruntime",threads="1"' in runtime
    assert runtime.endswith(" 1.0")
    assert re.search(r'\nmsd_build_info\{commit="[^"]*",version="[0-9][^"]*"\} 1\.0\n', answer.text)
    assert Settings(bundle=bundle.folder, revision="abc123").build.commit == "abc123"


def test_requests_are_counted_and_logged_as_they_were(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        with running.client() as client:
            client.post("/v1/score", json=golden_requests()[3], headers={"X-Request-Id": "first"})
            client.post("/v1/score", json={"user_id": 1}, headers={"X-Request-Id": "second"})
            client.get("/health/live")
        wait_until(lambda: running.metric("msd_queued_rows") == 0)  # the first is counted
        for sample, value in (
            ('msd_requests_total{code="200"}', 1),
            ('msd_requests_total{code="422"}', 1),
            ("msd_request_seconds_count", 1),
            ("msd_request_candidates_sum", 2),
            ('msd_degraded_total{rung="unknown",side="user"}', 1),
            ('msd_degraded_total{rung="category_prior",side="item"}', 1),
        ):
            assert running.metric(sample) == value
        assert running.terminate() == 0
        lines = {line["request_id"]: line for line in running.log() if line.get("path") == "/v1/score"}

    (second,) = lines.values()
    assert (second["level"], second["status"], second["error"]) == ("info", 422, "invalid")
    assert second["ms"] > 0
