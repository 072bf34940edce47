"""The one process: scores under load by several threads, its end, its listener, and what it does without."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from msd.contract.bundle import GOLDENS, Bundle
from msd.contract.golden import Golden, read_goldens
from msd.free_port import free_port
from tests.bundles.factory import golden_requests
from tests.service.live import ROOT, LiveService, freeze, live_service, run_msd, wait_until
from tests.service.load import Load


@pytest.fixture(scope="module")
def pair(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Two scoring threads; tests leave it as it is."""
    with live_service(bundle.folder, tmp_path_factory.mktemp("pair"), workers=2) as running:
        yield running


def at_once() -> dict[str, str]:
    return {**os.environ, "MSD_DRAIN_SECONDS": "0"}


def events(service: LiveService) -> list[str]:
    return [line["event"] for line in service.log()]


def check_golden(client: httpx.Client, golden: Golden) -> int:
    """Asks for a golden's scores, which have to be those expected."""
    answer = client.post("/v1/score", json={**golden.request, "top_k": None})
    assert answer.status_code == 200, answer.text
    for head, expected in golden.expected.items():
        assert answer.json()["candidates"][head] == pytest.approx(expected, abs=1e-5)
    return len(expected)


def test_goldens_scores_at_rest_and_under_load(bundle: Bundle, pair: LiveService) -> None:
    goldens = [golden for golden in read_goldens(bundle.path(GOLDENS)) if not golden.events]

    def ask(_: int) -> int:
        with pair.client() as client:
            return sum(check_golden(client, golden) for golden in goldens for _ in range(10))

    assert ask(0) == ask(1)
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1


def test_service_is_one_process(pair: LiveService) -> None:
    children = Path(f"/proc/{pair.process.pid}/task/{pair.process.pid}/children").read_text()
    assert children == ""
    (listening,) = [line for line in pair.log() if line["event"] == "listening"]
    assert (listening["threads"], listening["port"]) == (2, pair.port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_its_end_loses_no_accepted_request(bundle: Bundle, tmp_path: Path, number: signal.Signals) -> None:
    with live_service(bundle.folder, tmp_path, workers=2, drain_seconds=0.3) as running:
        load = Load(running, 6)
        wait_until(lambda: load.statuses[200] >= 60)
        running.process.send_signal(number)
        assert running.process.wait(120) == 0
        wait_until(lambda: len(load.refused + load.lost) == 6)
        load.stop()

    assert load.lost == []
    assert set(load.statuses) == {200}


def test_connections_that_nobody_had_accepted_at_the_end_are_answered(bundle: Bundle, tmp_path: Path) -> None:
    """The process is stopped meanwhile, so that they pile up at the door."""
    with live_service(bundle.folder, tmp_path) as running:
        freeze(running.process.pid)
        kept = [socket.create_connection(("127.0.0.1", running.port), timeout=60) for _ in range(700)]
        for connection in kept:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGCONT)
        for connection in kept:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")
            connection.close()
        assert running.process.wait(120) == 0


def test_client_that_does_not_finish_does_not_keep_it(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path, BODY_TIMEOUT_S=600) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as slow:
            slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            wait_until(lambda: running.metric("msd_connections") >= 1)
            assert running.terminate() == 0


def test_signal_while_it_starts_is_its_end(bundle: Bundle) -> None:
    serve = [sys.executable, "-m", "msd", "serve", str(bundle.folder), "--port", "0"]
    process = subprocess.Popen(serve, cwd=ROOT, env=at_once(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    status = Path(f"/proc/{process.pid}/status")

    def catches_sigterm() -> bool:
        (caught,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt")]
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(catches_sigterm)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert b"Traceback" not in out + errors


def test_too_many_open_files_cost_connections_and_no_more(bundle: Bundle, tmp_path: Path) -> None:
    with live_service(bundle.folder, tmp_path) as running:
        pid = running.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), before[1]))
        kept = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(4)]
        wait_until(lambda: "cannot_accept" in events(running))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        for connection in kept:
            connection.close()
        wait_until(lambda: running.score(golden_requests()[0]).status_code == 200)
        assert running.terminate() == 0


def test_closed_standard_streams_are_replaced(bundle: Bundle) -> None:
    port = free_port()
    serve = [sys.executable, "-m", "msd", "serve", str(bundle.folder), "--port", str(port)]
    process = subprocess.Popen(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve], cwd=ROOT, env=at_once())
    service = LiveService(f"http://127.0.0.1:{port}", port, process, Path(os.devnull))
    try:
        wait_until(lambda: service.ready()["ready"])
        assert {os.readlink(f"/proc/{process.pid}/fd/{descriptor}") for descriptor in range(3)} == {os.devnull}
        assert service.score(golden_requests()[0]).status_code == 200
        assert service.terminate() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MSD_PORT": "{port}"}, "cannot listen on 127.0.0.1 port {port}"),
        ({"MSD_KEYS_FILE": "/no/such/file"}, "/no/such/file"),
        ({"MSD_TLS_CERT": "/no/cert.pem", "MSD_TLS_KEY": "/no/key.pem"}, "/no/cert.pem: No such file"),
    ],
)
def test_start_that_cannot_be_is_refused(
    bundle: Bundle, pair: LiveService, settings: dict[str, str], message: str
) -> None:
    environ = {name: value.format(port=pair.port) for name, value in settings.items()}
    ended = run_msd("serve", str(bundle.folder), **{"MSD_PORT": "0", **environ})
    assert (ended.returncode, ended.stderr.count("error: "), "Traceback" in ended.stderr) == (2, 1, False)
    assert message.format(port=pair.port) in ended.stderr


def test_processes_that_share_a_port_share_its_clients(bundle: Bundle, tmp_path: Path) -> None:
    """The kernel spreads connections over them; when one ends, the other takes all, and none is lost."""

    def scored(service: LiveService) -> float:
        with service.admin() as admin:
            lines = admin.get("/metrics").text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith('msd_requests_total{code="200"}'))

    shared: dict[str, Any] = {"reuse_port": "on", "admin_port": 0}
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with (
        live_service(bundle.folder, folders[0], **shared) as one,
        live_service(bundle.folder, folders[1], **{**shared, "port": one.port}) as other,
    ):
        with other.admin() as admin:  # at the shared port either may be the one that is ready
            wait_until(lambda: admin.get("/health/ready").status_code == 200)
        asked = golden_requests()[0]
        sent = 0
        while not (scored(one) and scored(other)):
            assert one.score(asked).status_code == 200
            sent += 1
            assert sent < 1_000, "all of a thousand connections went to the same process"
        wait_until(lambda: scored(one) + scored(other) == sent)
        load = Load(one, 4)
        assert one.terminate() == 0
        ended = scored(other)
        wait_until(lambda: scored(other) > ended + 20)
        load.stop()
        assert (load.lost, set(load.statuses)) == ([], {200})


def test_more_threads_than_cores_are_warned_of(bundle: Bundle, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with live_service(bundle.folder, tmp_path, workers=cores + 1) as running:
        (warning,) = [line for line in running.log() if line["event"] == "more_threads_than_cores"]
        assert (warning["level"], warning["workers"], warning["threads"]) == ("warning", cores + 1, 1)


def test_connections_made_while_it_starts_are_answered(bundle: Bundle, tmp_path: Path) -> None:
    """Asked before it is ready, it says so, and that the client should connect anew."""
    with live_service(bundle.folder, tmp_path, workers=2, wait_ready=False) as running:
        statuses: list[int] = []

        def ask() -> None:
            with running.client() as client:
                answer = client.post("/v1/score", json=golden_requests()[0])
                statuses.append(answer.status_code)
                assert answer.status_code == 200 or answer.headers["connection"] == "close"

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(statuses) == 8
        assert set(statuses) <= {200, 503}
        wait_until(lambda: running.ready()["ready"])
