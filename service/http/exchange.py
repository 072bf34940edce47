"""What a scope's connection tells of its request; and requests that came whole and are answered by one write, without
ASGI in between.

A scoring thread may write the reply itself: nobody else writes to the connection meanwhile, and it does not end before
the thread has written.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

CYCLE, BEGAN, CLOSES = "msd.cycle", "msd.began", "msd.closes"
"""In a scope: uvicorn's side of the request; when it began; that the connection ends after a body that passes."""
_CLOSE = (b"connection", b"close")
Headers = list[tuple[bytes, bytes]]


class Exchange:
    """Over uvicorn's side of the request. All but `is_gone` and `send` is for the event loop."""

    __slots__ = ("_cycle", "_descriptor", "_is_sent", "_lock", "_rest", "body", "on_end", "scope")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.scope: Scope = cycle.scope  # type: ignore[assignment]
        # One object for both: a body may be large.
        self.body = cycle.body = bytes(cycle.body)  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._descriptor = _descriptor_of(cycle)
        self._is_sent = False
        self._rest = b""
        self.on_end: Callable[[], None] | None = None
        """Called when the connection ends before the reply was written."""

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
        if self.on_end is not None:
            self.on_end()

    def abandon(self) -> None:
        """Ends the connection, for nobody is there to answer any more."""
        self._cycle.transport.close()

    def _whole(self, status: int, headers: Headers, body: bytes) -> bytes:
        headers = [*self._cycle.default_headers, *headers]
        if not self._cycle.keep_alive and _CLOSE not in headers:
            headers.append(_CLOSE)
        return reply_bytes(status, headers, body)


def reply_bytes(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A reply as it is written."""
    parts = [STATUS_LINE[status]]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    return b"".join((*parts, b"\r\n", body))


def _descriptor_of(cycle: RequestResponseCycle) -> int:
    """Of the connection's socket, where what is written to it is what the client reads next; else −1."""
    transport = cycle.transport
    if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
        return -1
    connection = transport.get_extra_info("socket")
    return -1 if connection is None else int(connection.fileno())


def began_at(scope: Scope) -> float:
    """When a request's first byte was read, by `time.perf_counter`."""
    began: float | None = scope.get(BEGAN)
    return time.perf_counter() if began is None else began


def expect_no_reply(scope: Scope) -> None:
    """The client of a request has left, which the server may not have been told: its end is a moment later than its
    beginning."""
    if (cycle := _cycle_of(scope)) is not None:
        cycle.disconnected = True


def reply_before_body(scope: Scope) -> None:
    """A reply comes before its request's body has: let what is still on its way pass, so that the client sees it."""
    cycle = _cycle_of(scope)
    if cycle is None or not cycle.more_body:
        return
    if cycle.waiting_for_100_continue:
        # The client may send its body or leave it out: what comes next cannot be told apart.
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        cycle.keep_alive, scope[CLOSES] = True, True


def is_whole(scope: Scope) -> bool:
    """Whether all of a request's body has come, so that it need not be waited for."""
    cycle = _cycle_of(scope)
    return cycle is not None and not cycle.more_body


def left_check(scope: Scope) -> Callable[[], bool]:
    """Tells at any time, at no cost until then, whether the request's client has left."""
    cycle = _cycle_of(scope)
    return _stays if cycle is None else cycle.transport.is_closing


def _cycle_of(scope: Scope) -> RequestResponseCycle | None:
    """The server's own side of a request; None where it came otherwise."""
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    return cycle


def _stays() -> bool:
    return False
