"""Ports that a server may take, and memory that is used again."""

import platform
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from msd.free_port import free_port
from msd.process import keep_freed_memory


@contextmanager
def _bound(host: str, port: int, *, is_server: bool) -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, is_server)
        server.bind((host, port))
        yield server


def test_server_listens_on_a_free_port_again_and_again() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    for host in ("127.0.0.1", "", "127.0.0.1"):
        with _bound(host, port, is_server=True) as server:
            server.listen()
            with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_free_port_is_reserved(host: str) -> None:
    with pytest.raises(OSError, match="already in use"), _bound(host, free_port(), is_server=False):
        pass


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    keep_freed_memory()
    size = 16 << 20
    np.ones(size, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(size, np.uint8)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < size // resource.getpagesize()
