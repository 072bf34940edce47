"""What the service refuses to start on, or never becomes ready with: the reason is one clear message."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msd.contract.bundle import Bundle
from msd.contract.errors import BundleError
from msd.contract.golden import Golden
from msd.free_port import free_port
from service.deployment.rollout import BundleFollower
from service.probe import probe
from service.server.components import Components
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import golden_requests, reseal
from tests.service.bundle_folders import break_goldens, change_goldens
from tests.service.live import ROOT, LiveService, live_service, run_msd, wait_until


@pytest.mark.parametrize(
    ("heads", "reason"), [(("pctr", "orders"), "no output 'orders'"), (("pcvr", "pctr"), "must be 'pctr'")]
)
def test_manifest_with_other_heads_than_the_graph_is_refused(
    copied_bundle: Path, heads: tuple[str, ...], reason: str
) -> None:
    reseal(copied_bundle, heads=heads)
    settings = Settings(bundle=copied_bundle)
    with pytest.raises(BundleError, match=reason):
        Components(settings, Metrics(), BundleFollower(settings, None).first())


def test_rows_damaged_after_they_were_verified_are_refused(copied_bundle: Path) -> None:
    """A file that was touched is hashed again, whatever the mark of an earlier verification says."""
    with live_service(copied_bundle, copied_bundle.parent):
        pass
    data = bytearray((copied_bundle / "items.rows").read_bytes())
    data[len(data) // 2] ^= 1
    (copied_bundle / "items.rows").write_bytes(data)
    ended = run_msd("serve", str(copied_bundle), "--port", "0")
    assert (ended.returncode, ended.stderr.startswith("error: "), "Traceback" in ended.stderr) == (2, True, False)
    assert "items.rows: its SHA-256" in ended.stderr


def test_limit_of_file_sizes_is_one_message(bundle: Bundle) -> None:
    """It counts for memory that is mapped, too."""
    command = f"ulimit -f 1; exec {sys.executable} -m msd serve {bundle.folder}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    assert "error: a file cannot be written (File too large); free disk space, or raise its limit" in ended.stderr


def _drop_a_head(goldens: list[Golden]) -> list[Golden]:
    return [goldens[0].model_copy(update={"expected": {"pctr": goldens[0].expected["pctr"]}})]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (break_goldens, "golden 2 differs by 0.001"),
        (lambda folder: change_goldens(folder, _drop_a_head), "golden 1 differs by inf"),
        (lambda folder: change_goldens(folder, lambda goldens: []), "holds no goldens"),
        (lambda folder: reseal(folder, tolerances={"torch-cpu-fp32": 1.0}), "no tolerance for 'onnxruntime-cpu-fp32'"),
    ],
)
def test_goldens_that_are_not_reproduced_keep_it_unready(
    copied_bundle: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(copied_bundle)
    with live_service(copied_bundle, tmp_path, wait_ready=False) as running:
        wait_until(lambda: reason in running.ready()["missing"].get("model", ""))
        answer = running.score(golden_requests()[0])
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "not_ready"
        assert reason in answer.json()["error"]["message"]
        assert running.metric("msd_ready") == 0
        with running.client() as client:
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 503


@pytest.mark.parametrize(
    ("host", "tls", "is_healthy"),
    [
        ("0.0.0.0", {}, True),
        # A probe of mutual TLS needs a listener alone.
        ("127.0.0.1", {"MSD_TLS_CLIENT_CA": "ca.pem"}, True),
        ("127.0.0.1", {"MSD_TLS_CERT": "cert.pem"}, False),
    ],
)
def test_probe_connects_as_the_service_is_configured(
    service: LiveService, host: str, tls: dict[str, str], is_healthy: bool
) -> None:
    reason = probe({"MSD_HOST": host, "MSD_PORT": str(service.port), **tls})
    assert (reason is None) is is_healthy
    assert is_healthy or f"127.0.0.1:{service.port}: " in (reason or "")


@pytest.mark.parametrize("tls", [{}, {"MSD_TLS_CLIENT_CA": "ca.pem"}])
def test_unreachable_service_is_unhealthy(tls: dict[str, str]) -> None:
    port = free_port()
    assert f"127.0.0.1:{port}: " in (probe({"MSD_PORT": str(port), **tls}) or "")


def test_probe_asks_the_admin_port(service: LiveService) -> None:
    environ = {"MSD_PORT": str(free_port()), "MSD_ADMIN_PORT": str(service.port), "MSD_TLS_CLIENT_CA": "ca.pem"}
    assert probe(environ) is None
    assert probe({**environ, "MSD_ADMIN_PORT": "none"}) == "MSD_ADMIN_PORT='none' is no port"


@pytest.mark.parametrize(("is_there", "status"), [(True, 0), (False, 1)])
def test_exit_status_is_the_health(service: LiveService, is_there: bool, status: int) -> None:
    port = service.port if is_there else free_port()
    command = [sys.executable, "-m", "service.probe"]
    ended = subprocess.run(command, env={"MSD_PORT": str(port)}, capture_output=True, text=True, check=False)

    assert ended.returncode == status
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("port", ["", "http", "-1", "0", "65536", "1" * 5_000])
def test_invalid_port_is_named(port: str) -> None:
    assert probe({"MSD_PORT": port}) == f"MSD_PORT={port!r} is no port"
