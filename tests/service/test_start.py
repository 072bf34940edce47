"""What the service refuses to start on, or never becomes ready with: the reason is one clear message."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.errors import BundleError
from msd.contract.golden import read_goldens, write_goldens
from msd.free_port import free_port
from service.app import create_app
from service.probe import probe
from service.settings import Settings
from tests.bundles.factory import golden_requests, reseal
from tests.service.live import LiveService, live_service, run_msd, wait_until


def refusal(folder: Path, *flags: str, **environment: str) -> str:
    """What `msd serve` says when it refuses to start."""
    ended = run_msd("serve", str(folder), "--port", "0", *flags, **environment)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr + ended.stdout
    return ended.stderr


def _flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "ranker tampered": (lambda folder: _flip_byte(folder / "ranker.onnx"), "ranker.onnx: its SHA-256"),
    "rows tampered": (lambda folder: _flip_byte(folder / "items.rows"), "items.rows: its SHA-256"),
    "a head too few": (lambda folder: reseal(folder, heads=("pctr", "orders")), "no output 'orders'"),
    "another first head": (lambda folder: reseal(folder, heads=("pcvr", "pctr")), "must be 'pctr'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_bundle_is_refused(copied_bundle: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(copied_bundle)

    with pytest.raises(BundleError) as raised:
        create_app(Settings(bundle=copied_bundle))
    assert said in str(raised.value)


def test_rows_damaged_after_they_were_verified_are_refused(copied_bundle: Path) -> None:
    """A file that was touched is hashed again, whatever the mark of an earlier verification says."""
    with live_service(copied_bundle, copied_bundle.parent):
        pass
    _flip_byte(copied_bundle / "items.rows")
    assert "items.rows: its SHA-256" in refusal(copied_bundle)


def test_mistaken_settings_are_refused(bundle: Bundle) -> None:
    assert "did you mean MSD_STORE" in refusal(bundle.folder, MSD_STOER="redis")
    assert "msd-ctr[gpu]" in refusal(bundle.folder, "--provider", "cuda")
    assert "needs MSD_REDIS_URL" in refusal(bundle.folder, "--store", "redis")
    assert "colour" in refusal(bundle.folder, "--redis", "redis://:hunter2@localhost/0?colour=red")


def break_goldens(folder: Path) -> None:
    goldens = list(read_goldens(folder / GOLDENS))
    wrong = {**goldens[1].expected, "pctr": [value + 1e-3 for value in goldens[1].expected["pctr"]]}
    write_goldens(folder / GOLDENS, [goldens[0], goldens[1].model_copy(update={"expected": wrong})])
    reseal(folder)


def _drop_a_head(folder: Path) -> None:
    goldens = list(read_goldens(folder / GOLDENS))
    write_goldens(folder / GOLDENS, [goldens[0].model_copy(update={"expected": {"pctr": goldens[0].expected["pctr"]}})])
    reseal(folder)


def _empty_goldens(folder: Path) -> None:
    write_goldens(folder / GOLDENS, [])
    reseal(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_goldens, "golden 2 differs by 0.001"),
        (_drop_a_head, "golden 1 differs by inf"),
        (_empty_goldens, "holds no goldens"),
        (lambda folder: reseal(folder, tolerances={"torch-cpu-fp32": 1.0}), "no tolerance for 'onnxruntime-cpu-fp32'"),
    ],
)
def test_goldens_that_are_not_reproduced_keep_it_unready(
    copied_bundle: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(copied_bundle)
    with live_service(copied_bundle, tmp_path, wait_ready=False) as running:
        wait_until(lambda: said in running.ready()["missing"].get("model", ""))
        answer = running.score(golden_requests()[0])
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "not_ready"
        assert said in answer.json()["error"]["message"]
        assert running.metric("msd_ready") == 0
        with running.client() as client:
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 503


def test_ready_service_is_healthy(service: LiveService) -> None:
    assert probe({"MSD_HOST": "0.0.0.0", "MSD_PORT": str(service.port)}) is None


def test_unreachable_service_is_unhealthy() -> None:
    port = free_port()

    assert f"127.0.0.1:{port}: " in (probe({"MSD_PORT": str(port)}) or "")
    assert f"127.0.0.1:{port}: " in (probe({"MSD_PORT": str(port), "MSD_TLS_CLIENT_CA": "ca.pem"}) or "")


def test_probe_of_mutual_tls_needs_a_listener_alone(service: LiveService) -> None:
    assert probe({"MSD_PORT": str(service.port), "MSD_TLS_CLIENT_CA": "ca.pem"}) is None


def test_plain_http_is_unhealthy_if_tls_is_set(service: LiveService) -> None:
    assert f"127.0.0.1:{service.port}: " in (probe({"MSD_PORT": str(service.port), "MSD_TLS_CERT": "cert.pem"}) or "")


def test_probe_asks_the_admin_port(service: LiveService) -> None:
    environ = {"MSD_PORT": str(free_port()), "MSD_ADMIN_PORT": str(service.port), "MSD_TLS_CLIENT_CA": "ca.pem"}
    assert probe(environ) is None
    assert probe({**environ, "MSD_ADMIN_PORT": "none"}) == "MSD_ADMIN_PORT='none' is no port"


@pytest.mark.parametrize(("is_there", "status"), [(True, 0), (False, 1)])
def test_exit_status_is_the_health(service: LiveService, is_there: bool, status: int) -> None:
    port = service.port if is_there else free_port()
    ended = subprocess.run(
        [sys.executable, "-m", "service.probe"],
        env={"MSD_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == status
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("port", ["", "http", "-1", "0", "65536", "1" * 5_000])
def test_invalid_port_is_named(port: str) -> None:
    assert probe({"MSD_PORT": port}) == f"MSD_PORT={port!r} is no port"
