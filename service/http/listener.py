"""The socket that clients connect to: bound, opened, and closed so that nobody who came is lost."""

import ctypes
import socket
from collections.abc import Iterator

from msd.contract.errors import MsdError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only this machine reaches."""
_BACKLOG = 2_048
_SO_ATTACH_FILTER = 26


def bind(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet. Raises MsdError when the address cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _refused(host, port, error) from error
    listener.setblocking(False)
    return listener


def listen(listener: socket.socket) -> tuple[str, int]:
    """Opens the door, and says where. Raises MsdError when another was faster."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error
    return host, port


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Every connection that waits at the door."""
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        yield connection


def refuse_new(listener: socket.socket) -> None:
    """Has the kernel drop new connections, between the last one taken in and the closing of the door.

    A one-line packet filter, `return 0`; where there are none, the gap stays open for some microseconds.
    """
    instruction = _Instruction(0x06, 0, 0, 0)
    program = _Program(1, ctypes.pointer(instruction))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError:
        return


def _refused(host: str, port: int, error: Exception) -> MsdError:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return MsdError(f"cannot listen on {host} port {port}: {reason}")


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))
