"""One keep-alive HTTP/1.1 connection of the load generator: a request's bytes go out, its status comes back.

As lean as may be, because it takes its time from the same cores as the service. Reads bodies only where asked to.
"""

import asyncio
import time
from typing import Protocol, cast

import httptools

_DEGRADED = b'"degraded":'


class Listener(Protocol):
    """Hears of a connection's replies and of its end."""

    def replied(self, connection: "Connection", status: int) -> None:
        """The reply to the request that was sent is complete."""

    def ended(self, connection: "Connection") -> None:
        """There will be no further reply."""


class Connection(asyncio.Protocol):
    """Carries one request at a time; `intended` is when that was to be sent."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self.intended: float | None = None
        self.is_degraded = False
        """Whether the reply says that not all of it was scored from all that there is."""
        self._end = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        # Searched for, not parsed: inside of a string the quotation marks would be escaped.
        self.is_degraded = self.is_degraded or _DEGRADED in self._end + data
        self._end = data[-len(_DEGRADED) :]
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if not self._parser.should_keep_alive():
            self.close()
        self._listener.replied(self, self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.ended(self)

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, intended: float) -> None:
        """Sends one; the one before has been answered."""
        assert self._transport is not None, "a connection is used once it is made"
        self.intended, self.is_degraded, self._end = intended, False, b""
        self._transport.write(request)

    def close(self) -> None:
        """Ends it."""
        if self._transport is not None:
            self._transport.abort()


class ReadingConnection(Connection):
    """One that keeps its last request, when it was sent (of `time.monotonic`), and the body of the reply to it."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self.request = b""
        self.sent = 0.0
        self._parts: list[bytes] = []

    @property
    def body(self) -> bytes:
        """What came since the last request was sent."""
        return b"".join(self._parts)

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._parts.append(data)

    def send(self, request: bytes, intended: float) -> None:
        """Sends one; the one before has been answered."""
        self.request, self.sent, self._parts = request, time.monotonic(), []
        super().send(request, intended)
