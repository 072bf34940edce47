"""One keep-alive HTTP/1.1 connection of the load generator: sends request bytes, returns status and body.

As lean as possible, because it shares the service's cores: a socket and a parser, without an event loop's layers.
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
    """A service's socket address."""

    family: int
    place: tuple[str | int | bytes, ...]


class Listener(Protocol):
    """Callbacks for a connection's start, replies and end."""

    def opened(self, connection: "Connection") -> None:
        """The connection is open."""

    def replied(self, connection: "Connection", status: int) -> None:
        """The reply is complete."""

    def ended(self, connection: "Connection", error: OSError | None) -> None:
        """The connection has ended; with an error if it was never open."""


class Connection:
    """Carries one request at a time; `intended` is when it was due, and `sent` when it was sent, by
    `time.monotonic`."""

    def __init__(self, address: Address, watch: BaseSelector, listener: Listener) -> None:
        """Start connecting. The watch calls the connection's `ready`. Raises OSError."""
        self._watch = watch
        self._listener = listener
        self._parser = httptools.HttpResponseParser(self)
        self._unsent = b""
        self._parts: list[bytes] = []
        self.request = b""
        self.intended: float | None = None
        self.sent = 0.0
        self.is_open = False
        """Whether the connection is open."""
        self._socket = socket.socket(address.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = self._socket.connect_ex(address.place)
        if number not in (0, EINPROGRESS):
            self._socket.close()
            raise OSError(number, os.strerror(number))
        watch.register(self._socket, EVENT_WRITE, self.ready)

    def ready(self, events: int) -> None:
        """Handle a readable or writable socket."""
        if not self.is_open:
            self._connected()
            return
        if events & EVENT_WRITE:
            self._watch.modify(self._socket, EVENT_READ, self.ready)
            self._write(self._unsent)
        if events & EVENT_READ:
            self._read()

    def send(self, request: bytes, intended: float) -> None:
        """Send a request; the previous one has been answered."""
        self.request, self.intended, self.sent, self._parts = request, intended, time.monotonic(), []
        self._write(request)

    @property
    def has_ended(self) -> bool:
        """Whether the service has closed it, as it may close an idle connection at any time."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    @property
    def body(self) -> bytes:
        """The reply's body."""
        return b"".join(self._parts)

    @property
    def is_degraded(self) -> bool:
        """Whether the reply declares degradation."""
        # Searched, not parsed: within a string the quotation marks would be escaped.
        return _DEGRADED in self.body

    def close(self) -> None:
        """Close without callbacks."""
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
            # Readable means EOF.
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
