"""What those who run the service see: the model, metrics, logs."""

from pathlib import Path

import onnxruntime

import native
from msd.contract.bundle import Bundle
from msd.contract.instructions import cpu_instructions
from service.telemetry.metrics import RUNGS, STAGES
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until


def test_the_model_route_tells_what_is_served(service: LiveService, bundle: Bundle) -> None:
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
        "graphs": False,
    }
    assert model["native"] == {
        "served": native.core is not None,
        "instructions": native.core.INSTRUCTIONS if native.core else "",
        "reason": native.REASON,
    }
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


def test_python_is_told_where_the_core_is_switched_off(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, native="off") as running:
        with running.client() as client:
            told = client.get("/v1/model").json()["native"]
            (metric,) = (
                line for line in client.get("/metrics").text.splitlines() if line.startswith("msd_native_info{")
            )
        assert running.terminate() == 0
        lines = [line for line in running.log() if line["event"] == "native_core"]

    assert (told["served"], told["reason"]) == (False, "switched off by MSD_NATIVE")
    assert metric == f'msd_native_info{{instructions="{told["instructions"]}",path="python"}} 1.0'
    assert [{name: line[name] for name in told} for line in lines] == [told]


def test_requests_are_counted_and_logged_as_they_were(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, log_level="debug") as running:
        with running.client() as client:
            client.post("/v1/score", json=golden_requests()[3], headers={"X-Request-Id": "first"})
            client.post("/v1/score", json={"user_id": 1}, headers={"X-Request-Id": "second"})
            client.get("/health/live")
        assert running.metric('msd_requests_total{code="200"}') == 1
        assert running.metric('msd_requests_total{code="422"}') == 1
        assert running.metric("msd_request_seconds_count") == 1
        assert running.metric("msd_request_candidates_sum") == 2
        assert running.metric('msd_degraded_total{rung="unknown",side="user"}') == 1
        assert running.metric('msd_degraded_total{rung="category_prior",side="item"}') == 1
        assert running.terminate() == 0
        lines = {line["request_id"]: line for line in running.log() if line.get("path") == "/v1/score"}

    assert set(lines) == {"first", "second"}
    first, second = lines["first"], lines["second"]
    assert (first["status"], first["candidates"]) == (200, 2)
    assert first["degraded"] == {"user_unknown": 1, "category_prior": 1}
    assert first["ms"] > 0
    assert (first["level"], second["level"]) == ("debug", "info")
    assert (second["status"], second["error"]) == (422, "invalid")


def test_requests_that_go_well_are_not_logged_one_by_one(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        with running.client() as client:
            assert client.post("/v1/score", json=golden_requests()[0]).status_code == 200
            assert client.get("/health/ready").status_code == 200
            assert client.post("/v1/score", json={}).status_code == 422
        assert running.terminate() == 0
        assert [line["status"] for line in running.log() if line["event"] == "request"] == [422]


def test_a_quiet_log_level_is_quiet(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, log_level="debug") as running:
        with running.client() as client:
            client.get("/health/live")
        # Written once the answer has been sent, so perhaps after it has come.
        wait_until(lambda: any(line.get("path") == "/health/live" for line in running.log()))
