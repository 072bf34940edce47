"""TLS of the service: who gets in, what a failed handshake costs, and certificates that change under it."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from msd.contract.bundle import Bundle
from service.http.entry import bind, listen
from service.http.tls import TlsEntry, TlsError, open_tls, server_context
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.bundles.factory import golden_requests
from tests.service.live import LiveService, live_service, wait_until
from tests.service.tls_files import Files, known

GOOD = golden_requests()[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def mutual(bundle: Bundle, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """A service that speaks TLS with clients of one authority, however slow they are."""
    with _served(bundle, files, tmp_path_factory.mktemp("mutual"), 60) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(bundle: Bundle, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """The same for clients that never say all."""
    with _served(bundle, files, tmp_path_factory.mktemp("hasty"), 3) as running:
        yield running


@contextmanager
def _served(bundle: Bundle, files: Files, folder: Path, head_timeout_s: float) -> Iterator[LiveService]:
    tls: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.client_ca}
    with live_service(bundle.folder, folder, wait_ready=False, HEAD_TIMEOUT_S=head_timeout_s, **tls) as running:
        with known(running, files) as client:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield running


def served_certificate(service: LiveService, files: Files) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=20) as plain,
        files.context(files.clients).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def closed(service: LiveService, files: Files, reason: str) -> float:
    return service.metric(f'msd_connections_closed_total{{reason="{reason}"}}', known(service, files))


def test_client_of_the_authority_is_answered(mutual: LiveService, files: Files) -> None:
    with known(mutual, files) as client:
        for _ in range(3):
            assert client.post("/v1/score", json=GOOD).status_code == 200


@pytest.mark.parametrize("which", ["none", "of another authority"])
def test_any_other_client_is_not(mutual: LiveService, files: Files, which: str) -> None:
    context = files.context(None if which == "none" else trustme.CA())
    before = closed(mutual, files, "handshake")
    with (
        httpx.Client(
            base_url=f"https://127.0.0.1:{mutual.port}", verify=context, trust_env=False, timeout=60
        ) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.post("/v1/score", json=GOOD)
    wait_until(lambda: closed(mutual, files, "handshake") > before)


@pytest.mark.parametrize("sent", [b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
def test_plain_bytes_on_a_tls_port_are_closed(hasty: LiveService, files: Files, sent: bytes) -> None:
    before = closed(hasty, files, "handshake")
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as connection:
        connection.sendall(sent)
        try:
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        except ConnectionResetError:
            answer = b""
    assert b"HTTP/1.1" not in answer
    wait_until(lambda: closed(hasty, files, "handshake") > before)


def test_no_old_version_is_spoken_and_nothing_is_negotiated_twice(files: Files) -> None:
    context = server_context(files.cert, files.key, files.client_ca)

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_head_over_tls_that_never_ends_is_closed(hasty: LiveService, files: Files) -> None:
    with (
        socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as plain,
        files.context(files.clients).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /health/live HTT")
        assert connection.recv(100) == b""


def test_handshakes_that_do_not_end_keep_nobody_out(
    bundle: Bundle, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The oldest of them goes for whoever comes next. What is read after its end is a reset or the end."""
    folder = tmp_path_factory.mktemp("few")
    with live_service(
        bundle.folder, folder, wait_ready=False, tls_cert=files.cert, tls_key=files.key, max_connections=4
    ) as running:
        with ExitStack() as stack:
            port = ("127.0.0.1", running.port)
            held = [stack.enter_context(socket.create_connection(port, timeout=20)) for _ in range(12)]
            for _ in range(10):
                with known(running, files) as client:
                    assert client.get("/health/live").status_code == 200
            wait_until(lambda: closed(running, files, "made_room") > 0)
            with suppress(ConnectionError):
                assert held[0].recv(1) == b""


def test_silent_connections_over_tls_do_not_take_all_files_that_may_be_open(
    bundle: Bundle, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("narrow")
    tls: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key, "wait_ready": False}
    with (
        live_service(bundle.folder, folder, open_files=400, HEAD_TIMEOUT_S=600, **tls) as running,
        ExitStack() as stack,
    ):
        context = files.context()
        for _ in range(150):
            plain = socket.create_connection(("127.0.0.1", running.port), timeout=20)
            stack.enter_context(context.wrap_socket(plain, server_hostname="127.0.0.1"))
        with known(running, files) as client:
            assert client.get("/health/live").status_code == 200
        assert "cannot_accept" not in running.log_path.read_text()


@pytest.mark.anyio
async def test_connection_without_a_way_to_the_front_is_closed(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pair() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    tls = open_tls(Settings(bundle=Path(), tls_cert=files.cert, tls_key=files.key), metrics := Metrics())
    assert tls is not None
    entry = TlsEntry(tls, cast(Any, SimpleNamespace(connections=0)), 10, metrics)
    listener = bind("127.0.0.1", 0)
    _, port = listen(listener)
    entry.open(listener)
    monkeypatch.setattr(socket, "socketpair", no_pair)
    with suppress(ConnectionError):  # its end may come with that of the handshake
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=files.context())
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
    await entry.close()


def test_certificate_changes_without_a_restart(mutual: LiveService, files: Files) -> None:
    first = served_certificate(mutual, files)
    with known(mutual, files) as kept:
        assert kept.get("/health/live").status_code == 200
        files.key.write_bytes(files.key.read_bytes()[:100])
        wait_until(lambda: "msd_tls_stale 1.0" in kept.get("/metrics").text)
        assert served_certificate(mutual, files) == first

        files.renew()
        wait_until(lambda: "msd_tls_stale 0.0" in kept.get("/metrics").text)
        assert served_certificate(mutual, files) != first
        assert kept.post("/v1/score", json=GOOD).status_code == 200


def test_none_of_it_is_an_error_of_ours(mutual: LiveService, hasty: LiveService) -> None:
    """The last test of the services."""
    for service in (mutual, hasty):
        written = service.log_path.with_name("service.err").read_text() + service.log_path.read_text()
        assert "Traceback" not in written
        assert "PRIVATE KEY" not in written
        assert {line["event"] for line in service.log() if line["level"] == "error"} <= {"not_reloaded"}
        assert service.terminate() == 0


def test_files_that_make_no_tls_are_refused(tmp_path: Path) -> None:
    files, other = Files(tmp_path), Ed25519PrivateKey.generate()
    secret = tmp_path / "encrypted.pem"
    secret.write_bytes(
        other.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"hunter2"),
        )
    )
    (tmp_path / "empty.pem").write_bytes(b"")
    for cert, key, authority, message in [
        (tmp_path / "none.pem", files.key, None, "none.pem: No such file"),
        (files.key, files.key, None, "expected a PEM chain and its private key"),
        (files.cert, files.client_ca, None, "expected a PEM chain and its private key"),
        (files.cert, secret, None, "the private key is encrypted"),
        (files.cert, files.key, tmp_path / "empty.pem", "expected PEM certificates"),
    ]:
        with pytest.raises(TlsError) as raised:
            server_context(cert, key, authority)
        assert message in str(raised.value)


def test_handshake_that_does_not_begin_does_not_keep_the_service(bundle: Bundle, files: Files, tmp_path: Path) -> None:
    with live_service(
        bundle.folder, tmp_path, wait_ready=False, tls_cert=files.cert, tls_key=files.key, HEAD_TIMEOUT_S=600
    ) as running:
        url = f"https://127.0.0.1:{running.port}"
        with httpx.Client(base_url=url, verify=files.context(), trust_env=False, timeout=30) as client:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            with socket.create_connection(("127.0.0.1", running.port)):
                # Taken in after the silent one.
                with httpx.Client(base_url=url, verify=files.context(), trust_env=False, timeout=60) as other:
                    assert other.get("/health/live").status_code == 200
                assert running.terminate() == 0
