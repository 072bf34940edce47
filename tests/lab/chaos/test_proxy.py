"""The proxy passes on what comes, and spoils it as it is told to, without a pause between."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lab.chaos.proxy import Mode, Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(1_000):
                        connection.sendall(data)
                except OSError:
                    return

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def _asked(proxy: Proxy, patience_s: float = 30.0) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=patience_s) as client:
        client.sendall(b"0123456789")
        received = b""
        while len(received) < 10 and (data := client.recv(100)):
            received += data
        return received


def test_it_passes_on_and_delays(echo: int) -> None:
    with Proxy(echo, delay_s=0.2) as proxy:
        assert _asked(proxy) == b"0123456789"
        proxy.mode = "delay"
        start = time.monotonic()
        assert _asked(proxy) == b"0123456789"
        assert time.monotonic() - start >= 0.2


def test_it_cuts_short_and_resets(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.mode = "truncate"
        assert _asked(proxy) == b"01234"
        proxy.mode = "reset"
        with pytest.raises(ConnectionResetError):
            _asked(proxy)
        proxy.mode = "pass"
        assert _asked(proxy) == b"0123456789"


def test_it_holds_everything_back_until_it_is_told_otherwise(echo: int) -> None:
    mode: Mode = "hold"
    with Proxy(echo) as proxy:
        proxy.mode = mode
        with pytest.raises(TimeoutError):
            _asked(proxy, patience_s=0.3)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client:
            client.sendall(b"0123456789")
            proxy.mode = "pass"
            assert client.recv(100) == b"0123456789"
