"""The image's health check, against a running service, one with TLS, and none."""

import subprocess
import sys

import pytest

from msd.free_port import free_port
from service.probe import probe
from tests.service.live import LiveService


def test_a_ready_service_is_healthy(service: LiveService) -> None:
    assert probe({"MSD_HOST": "0.0.0.0", "MSD_PORT": str(service.port)}) is None


def test_where_nobody_listens_it_says_so() -> None:
    port = free_port()

    assert f"127.0.0.1:{port}: " in (probe({"MSD_PORT": str(port)}) or "")
    assert f"127.0.0.1:{port}: " in (probe({"MSD_PORT": str(port), "MSD_TLS_CLIENT_CA": "ca.pem"}) or "")


def test_where_certificates_are_asked_for_a_listener_is_enough(service: LiveService) -> None:
    assert probe({"MSD_PORT": str(service.port), "MSD_TLS_CLIENT_CA": "ca.pem"}) is None


def test_no_tls_where_the_settings_say_tls_is_an_error(service: LiveService) -> None:
    assert f"127.0.0.1:{service.port}: " in (probe({"MSD_PORT": str(service.port), "MSD_TLS_CERT": "cert.pem"}) or "")


def test_it_asks_the_admin_port_where_there_is_one(service: LiveService) -> None:
    environ = {"MSD_PORT": str(free_port()), "MSD_ADMIN_PORT": str(service.port), "MSD_TLS_CLIENT_CA": "ca.pem"}
    assert probe(environ) is None
    assert probe({**environ, "MSD_ADMIN_PORT": "none"}) == "MSD_ADMIN_PORT='none' is no port"


@pytest.mark.parametrize(("is_there", "status"), [(True, 0), (False, 1)])
def test_its_exit_status_tells(service: LiveService, is_there: bool, status: int) -> None:
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
def test_what_is_no_port_is_said(port: str) -> None:
    assert probe({"MSD_PORT": port}) == f"MSD_PORT={port!r} is no port"
