"""The admin port: what is there and not on the other one, and that it answers when the other cannot."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import Bundle
from msd.free_port import free_port
from tests.bundles.factory import golden_requests
from tests.service.api_keys import KEYS, write_keys
from tests.service.live import LiveService, live_service, run_msd, wait_until
from tests.service.tls_files import Files

MOVED = ("/metrics", "/v1/admin/experiment")


@pytest.fixture(scope="module")
def divided(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service with an admin port, keys, and room for few connections; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("divided")
    write_keys(folder / "keys.json", "ads", "ops")
    with live_service(
        bundle.folder,
        folder,
        admin_port=0,
        keys_file=folder / "keys.json",
        max_connections=20,
        HEAD_TIMEOUT_S=600,
    ) as running:
        yield running


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def connections(admin: httpx.Client) -> tuple[float, float]:
    """How many the port has, and how many were closed for others, as the metrics say."""
    lines = dict(line.rsplit(" ", 1) for line in admin.get("/metrics").text.splitlines() if line[0] != "#")
    closed = (lines[f'msd_connections_closed_total{{reason="{reason}"}}'] for reason in ("full", "made_room"))
    return float(lines["msd_connections"]), sum(map(float, closed))


def test_each_route_is_on_its_port(divided: LiveService) -> None:
    with divided.client() as client, divided.admin() as admin:
        for path in MOVED:
            assert client.get(path, headers=key("ops")).status_code == 404
        assert admin.get("/metrics").text.startswith("# HELP")
        # It follows one bundle: there is nothing to decide.
        assert admin.get("/v1/admin/experiment", headers=key("ops")).status_code == 409
        assert admin.get("/v1/admin/experiment", headers=key("ads")).status_code == 403
        assert admin.get("/v1/admin/experiment").status_code == 401
        for path in ("/health/live", "/health/ready", "/v1/model"):
            replies = [one.get(path, headers=key("ops")) for one in (client, admin)]
            assert [reply.status_code for reply in replies] == [200, 200]
            assert replies[0].json() == replies[1].json()
        replies = [one.post("/v1/score", json=golden_requests()[0], headers=key("ads")) for one in (client, admin)]
        assert [reply.status_code for reply in replies] == [200, 404]


def test_silent_connections_do_not_take_all_files_that_may_be_open(bundle: Bundle, tmp_path: Path) -> None:
    with (
        live_service(bundle.folder, tmp_path, open_files=400, admin_port=0, HEAD_TIMEOUT_S=600) as running,
        ExitStack() as stack,
    ):
        (warning,) = [line for line in running.log() if line["event"] == "fewer_connections"]
        assert (warning["max_connections"], warning["allowed"], warning["open_files"]) == (4_096, 144, 400)
        for _ in range(500):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        with running.admin() as admin:
            wait_until(lambda: connections(admin)[1] >= 500 - 144)
            wait_until(lambda: 0 < connections(admin)[0] <= 144)
            assert admin.get("/health/live").status_code == 200
        assert not [line for line in running.log() if line["event"] == "cannot_accept"]


def test_silent_connections_do_not_fill_the_admin_port_for_good(bundle: Bundle, tmp_path: Path) -> None:
    with (
        live_service(bundle.folder, tmp_path, admin_port=0, HEAD_TIMEOUT_S=0.5) as running,
        ExitStack() as stack,
    ):
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.admin_port)))
        with running.admin() as admin:
            wait_until(lambda: admin.get("/health/live").status_code == 200)
        wait_until(lambda: running.score(golden_requests()[0]).status_code == 200)


def test_service_without_redis_at_the_start_is_live_and_not_ready(bundle: Bundle, tmp_path: Path) -> None:
    """So a startup probe of liveness does not have it restarted for nothing."""
    url = f"redis://127.0.0.1:{free_port()}"
    settings: dict[str, Any] = {"store": "redis", "redis_url": url, "wait_ready": False, "admin_port": 0}
    with live_service(bundle.folder, tmp_path, **settings) as running, running.admin() as admin:
        wait_until(lambda: admin.get("/health/ready").json()["missing"].keys() == {"store"})
        assert admin.get("/health/live").status_code == 200
        assert admin.get("/health/ready").status_code == 503


def test_admin_port_reports_draining_to_the_end(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, admin_port=0, drain_seconds=600) as running, running.admin() as admin:
        running.process.send_signal(2)
        wait_until(lambda: admin.get("/health/ready").json()["draining"])
        assert admin.get("/health/live").status_code == 200
        running.process.send_signal(2)
        assert running.process.wait(60) == 0


def test_probes_need_no_certificate_there(bundle: Bundle, tmp_path: Path) -> None:
    files = Files(tmp_path)
    with live_service(
        bundle.folder,
        tmp_path,
        wait_ready=False,
        admin_port=0,
        tls_cert=files.cert,
        tls_key=files.key,
        tls_client_ca=files.client_ca,
    ) as running:
        url = f"https://127.0.0.1:{running.admin_port}"
        with httpx.Client(base_url=url, verify=files.context(), trust_env=False, timeout=30) as admin:
            wait_until(lambda: admin.get("/health/ready").status_code == 200)
        with pytest.raises(httpx.TransportError), httpx.Client(verify=files.context(), trust_env=False) as client:
            client.get(f"https://127.0.0.1:{running.port}/health/live")


def test_admin_port_that_cannot_be_opened_is_refused(bundle: Bundle, divided: LiveService) -> None:
    same, taken = str(free_port()), str(divided.admin_port)
    for port, admin_port, reason in (
        (same, same, f"MSD_ADMIN_PORT={same} equals MSD_PORT"),
        ("0", taken, f"cannot listen on 127.0.0.1 port {taken}"),
    ):
        ended = run_msd("serve", str(bundle.folder), "--port", port, MSD_ADMIN_PORT=admin_port)
        assert ended.returncode == 2
        assert reason in ended.stderr.replace("\n", " ")


def test_clients_that_queue_requests_and_read_nothing_leave_room_for_probes(bundle: Bundle, tmp_path: Path) -> None:
    """Of each, one request waits; of all, eight scrapes are made at once."""
    request = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    with live_service(bundle.folder, tmp_path, admin_port=0) as running, ExitStack() as stack:
        for turn in range(10):
            for _ in range(20):
                connection = stack.enter_context(socket.socket())
                with suppress(OSError):
                    connection.connect(("127.0.0.1", running.admin_port))
                    connection.sendall(request * 99)
            with running.admin() as admin:
                assert admin.get("/health/live").status_code == 200, turn
        with socket.create_connection(("127.0.0.1", running.admin_port)) as connection:
            connection.sendall(request * 99)
            answer = b"".join(iter(lambda: connection.recv(2**16), b""))
        assert answer.count(b"HTTP/1.1 200 ") <= 2
        assert b"requests wait on this connection" in answer
