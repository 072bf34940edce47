"""One request that came whole over a connection, and the one write that answers it, without ASGI in between.

A scoring thread may write the reply itself: nobody else writes to the connection meanwhile, and it does not end before
the thread has written.
"""

import os
import threading

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

BEGAN = "msd.began"
_CLOSE = (b"connection", b"close")
Headers = list[tuple[bytes, bytes]]


class Exchange:
    """Over uvicorn's side of the request. All but `is_gone` and `send` is for the event loop."""

    __slots__ = ("_cycle", "_descriptor", "_is_sent", "_lock", "_rest", "body", "scope")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.scope: Scope = cycle.scope  # type: ignore[assignment]
        self.body = bytes(cycle.body)
        self._lock = threading.Lock()
        self._descriptor = _descriptor_of(cycle)
        self._is_sent = False
        self._rest = b""

    @property
    def began(self) -> float:
        """When its first byte was read, by `time.perf_counter`."""
        return float(self.scope[BEGAN])

    @property
    def is_clogged(self) -> bool:
        """Whether the client does not take earlier replies, so that another would have to wait."""
        return self._cycle.flow.write_paused

    def is_gone(self) -> bool:
        """Whether the client has left. For any thread."""
        return self._cycle.transport.is_closing()

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Write the reply now, as much as the connection takes, if it can be written beside the loop. For any thread;
        `reply` is still to follow."""
        if self._descriptor < 0:
            return
        data = self._whole(status, headers, body)
        with self._lock:
            if self._descriptor < 0:
                return
            try:
                self._rest = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                self._rest = data
            except OSError:  # the client has left, as the loop will learn
                self._rest = b""
            self._is_sent = True

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Write the reply, or what is left of it; the connection goes on to its next request, or ends."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        data = self._rest if self._is_sent else self._whole(status, headers, body)
        if data:
            cycle.transport.write(data)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive or _CLOSE in headers or _CLOSE in cycle.default_headers:
            cycle.transport.close()
        cycle.on_response()

    def end(self) -> None:
        """The connection is about to end: from now on no thread writes to it."""
        with self._lock:
            self._descriptor = -1

    def abandon(self) -> None:
        """Ends the connection, for nobody is there to answer any more."""
        self._cycle.transport.close()

    def _whole(self, status: int, headers: Headers, body: bytes) -> bytes:
        parts = [STATUS_LINE[status]]
        for name, value in (*self._cycle.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        if not self._cycle.keep_alive and _CLOSE not in headers and _CLOSE not in self._cycle.default_headers:
            parts.append(b"connection: close\r\n")
        return b"".join((*parts, b"\r\n", body))


def _descriptor_of(cycle: RequestResponseCycle) -> int:
    """Of the connection's socket, where what is written to it is what the client reads next; else −1."""
    transport = cycle.transport
    if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
        return -1
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())
