"""The connection that a request came over, for whoever answers it beside the app: in this process or in another."""

import os
import time
from collections.abc import Iterable
from email.utils import formatdate

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.protocol import cycle_of


class Client:
    """One request's connection, while the request waits for its reply."""

    __slots__ = ("_cycle",)

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @classmethod
    def of(cls, scope: Scope) -> "Client | None":
        """None where the request did not come over a connection of the server's."""
        cycle = cycle_of(scope)
        return None if cycle is None else cls(cycle)

    @property
    def descriptor(self) -> int:
        """Of the socket; −1 when it is closed."""
        connection = self._cycle.transport.get_extra_info("socket")
        return -1 if connection is None else int(connection.fileno())

    @property
    def is_plain(self) -> bool:
        """Whether what is written to the socket is what the client reads next."""
        transport = self._cycle.transport
        return transport.get_extra_info("ssl_object") is None and not transport.get_write_buffer_size()

    @property
    def is_kept(self) -> bool:
        """Whether the connection outlives the reply."""
        return self._cycle.keep_alive and not any(name == b"connection" for name, _ in self._cycle.default_headers)

    def complete(self, rest: bytes) -> None:
        """The reply was written, but for its rest: the connection goes on to the next request, or ends."""
        cycle = self._cycle
        if cycle.disconnected:
            return
        if rest:
            cycle.transport.write(rest)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not self.is_kept:
            cycle.transport.close()
        cycle.on_response()

    def abort(self) -> None:
        """Ends the connection: nobody knows how much of a reply was written."""
        self._cycle.transport.abort()


def http_reply(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, is_kept: bool) -> bytes:
    """A whole reply, as the server would write it."""
    parts = [STATUS_LINE[status], b"date: ", formatdate(time.time(), usegmt=True).encode(), b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if not is_kept:
        parts.append(b"connection: close\r\n")
    return b"".join((*parts, b"\r\n", body))


def write_at_once(descriptor: int, data: bytes) -> bytes:
    """Writes to a socket what it takes without waiting, and gives back the rest; nothing where the client has left."""
    try:
        return data[os.write(descriptor, data) :]
    except BlockingIOError:
        return data
    except OSError:
        return b""
