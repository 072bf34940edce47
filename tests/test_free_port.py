"""A port that was drawn: servers may listen there, and no one draws it again."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from msd.free_port import free_port


@contextmanager
def _bound(host: str, port: int, *, is_server: bool) -> Iterator[socket.socket]:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, is_server)
        one.bind((host, port))
        yield one


def test_a_server_listens_on_a_drawn_port_and_again_after_it_ended() -> None:
    port = free_port()
    for host in ("127.0.0.1", "", "127.0.0.1"):
        with _bound(host, port, is_server=True) as server:
            server.listen()
            with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_drawn_port_is_not_drawn_again_before_a_server_listens_there(host: str) -> None:
    with pytest.raises(OSError, match="already in use"), _bound(host, free_port(), is_server=False):
        pass


def test_no_one_answers_on_a_drawn_port() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", free_port()))
