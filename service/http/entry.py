"""The listening socket: its address. Knows nothing of what connections carry."""

import socket
from collections.abc import Iterator

from msd.contract.errors import MsdError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses reachable only from this machine."""
_BACKLOG = 2_048


def bind(host: str, port: int, is_shared: bool = False) -> socket.socket:
    """Return a bound socket that does not listen yet, exclusive or sharing its address. Raises MsdError if the address
    is unavailable."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _refused(host, port, error) from error
    listener.setblocking(False)
    return listener


def listen(listener: socket.socket) -> tuple[str, int]:
    """Start listening, and log where. Raises MsdError if another process was faster."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error
    return host, port


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        yield connection


def _refused(host: str, port: int, error: Exception) -> MsdError:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return MsdError(f"cannot listen on {host} port {port}: {reason}")
