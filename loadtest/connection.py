"""One keep-alive HTTP/1.1 connection of the load generator: a request's bytes go out, status and body come back.

As lean as may be, because it takes its time from the same cores as the service: a socket and a parser, without an event
loop's layers.
"""

import os
import socket
import time
from errno import EINPROGRESS
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import NamedTuple, Protocol

import httptools

_DEGRADED = b'"degraded":'
_READ_BYTES = 65_536


class Address(NamedTuple):
    """Where a service listens, as the kernel knows it."""

    family: int
    place: tuple[str | int | bytes, ...]


class Listener(Protocol):
    """Hears of a connection's beginning, its replies and its end."""

    def opened(self, connection: "Connection") -> None:
        """Requests may be sent."""

    def replied(self, connection: "Connection", status: int) -> None:
        """The reply to the request that was sent is complete."""

    def ended(self, connection: "Connection", error: OSError | None) -> None:
        """There will be no further reply; with an error where there never was a connection."""


class Connection:
    """Carries one request at a time; `intended` is when that was to be sent, and `sent` when it was, by
    `time.monotonic`.
    """

    def __init__(self, address: Address, watch: BaseSelector, listener: Listener) -> None:
        """Begins to connect. The watch has the connection's `ready` called. Raises OSError."""
        self._watch = watch
        self._listener = listener
        self._parser = httptools.HttpResponseParser(self)
        self._unsent = b""
        self._parts: list[bytes] = []
        self.request = b""
        self.intended: float | None = None
        self.sent = 0.0
        self.is_open = False
        """Whether a request may be sent."""
        self._socket = socket.socket(address.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = self._socket.connect_ex(address.place)
        if number not in (0, EINPROGRESS):
            self._socket.close()
            raise OSError(number, os.strerror(number))
        watch.register(self._socket, EVENT_WRITE, self.ready)

    def ready(self, events: int) -> None:
        """The socket can be read or written."""
        if not self.is_open:
            self._connected()
            return
        if events & EVENT_WRITE:
            self._watch.modify(self._socket, EVENT_READ, self.ready)
            self._write(self._unsent)
        if events & EVENT_READ:
            self._read()

    def send(self, request: bytes, intended: float) -> None:
        """Sends one; the one before has been answered."""
        self.request, self.intended, self.sent, self._parts = request, intended, time.monotonic(), []
        self._write(request)

    @property
    def body(self) -> bytes:
        """What came since the last request was sent."""
        return b"".join(self._parts)

    @property
    def is_degraded(self) -> bool:
        """Whether the reply says that not all of it was scored from all that there is."""
        # Searched for, not parsed: inside of a string the quotation marks would be escaped.
        return _DEGRADED in self.body

    def close(self) -> None:
        """Ends it, and tells nobody."""
        if self._socket.fileno() >= 0:
            self._watch.unregister(self._socket)
            self._socket.close()
        self.is_open = False

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        is_last = not self._parser.should_keep_alive()
        if is_last:
            self.close()
        self._listener.replied(self, self._parser.get_status_code())
        if is_last:
            self._listener.ended(self, None)

    def _connected(self) -> None:
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.close()
            self._listener.ended(self, OSError(number, os.strerror(number)))
        else:
            self._watch.modify(self._socket, EVENT_READ, self.ready)
            self.is_open = True
            self._listener.opened(self)

    def _write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # Its end is there to be read.
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._watch.modify(self._socket, EVENT_READ | EVENT_WRITE, self.ready)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._lose()

    def _lose(self) -> None:
        if self.is_open:
            self.close()
            self._listener.ended(self, None)
