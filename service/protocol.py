"""uvicorn's httptools protocol with what it leaves unbounded bounded: the bytes and the time of a request's head."""

import re
import time
from asyncio import Transport
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import ClassVar

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.balance import Balance
from service.metrics import Metrics

_CYCLE = "msd.cycle"
_BEGAN = "msd.began"
# By its two usual spellings.
_UPGRADE = re.compile(rb"\r\n[Uu]pgrade:")


class HeadTooLarge(Exception):
    """The parser turns it into a 400 and closes."""


class BoundedProtocol(HttpToolsProtocol):
    """A protocol whose heads have at most `max_header_bytes` and take at most `head_timeout_s`."""

    max_header_bytes: ClassVar[int]
    head_timeout_s: ClassVar[float]
    _head_bytes = 0
    _is_head_due = False
    _unparsed_bytes = 0
    _began_at = 0.0
    metrics: ClassVar[Metrics]
    balance: ClassVar[Balance]
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client connected: its first head is due."""
        super().connection_made(transport)
        self._is_head_due = True
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._head_came()
        self.metrics.connection_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. The parser shows a header only when it is whole, so one that never is has to be counted here."""
        was_due = self._is_head_due
        # The parser takes what follows such a head for another protocol's, and a body with it, as of a client that
        # offers HTTP/2. There is none here, so the offer is passed over. JSON has no line that begins so.
        if b"pgrade:" in data:
            data = _UPGRADE.sub(b"\r\nx-upgrade:", data)
        super().data_received(data)
        if not self._is_head_due:
            self._unparsed_bytes = 0
            return
        # Of a head that comes whole, which is all but always, no timer is made.
        if self._head_timer is None:
            self._await_head()
        self._unparsed_bytes = self._unparsed_bytes + len(data) if was_due else 0
        if self._unparsed_bytes > self.max_header_bytes and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_bytes = 0
        self._is_head_due = True
        self._began_at = time.perf_counter()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head came."""
        self._head_came()
        super().on_headers_complete()
        self.scope[_CYCLE] = self.cycle  # type: ignore[literal-required]
        self.scope[_BEGAN] = self._began_at  # type: ignore[literal-required]
        if self.balance.sends_away():
            self.cycle.keep_alive = False

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.max_header_bytes:
            raise HeadTooLarge

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _head_came(self) -> None:
        self._is_head_due = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def began_at(scope: Scope) -> float:
    """When a request's first byte was read, by `time.perf_counter`."""
    began: float | None = scope.get(_BEGAN)
    return time.perf_counter() if began is None else began


def is_whole(scope: Scope) -> bool:
    """Whether all of a request's body has come, so that it need not be waited for."""
    cycle: RequestResponseCycle | None = scope.get(_CYCLE)
    return cycle is not None and not cycle.more_body


def left_check(scope: Scope) -> Callable[[], bool]:
    """Tells at any time, at no cost until then, whether the request's client has left."""
    cycle: RequestResponseCycle | None = scope.get(_CYCLE)
    return _stays if cycle is None else cycle.transport.is_closing


def _stays() -> bool:
    return False


def bounded_protocol(
    max_header_bytes: int, head_timeout_s: float, metrics: Metrics, balance: Balance
) -> type[HttpToolsProtocol]:
    """The protocol with its limits; uvicorn takes a class and makes the instances itself."""
    return type(
        "BoundedProtocol",
        (BoundedProtocol,),
        {
            "max_header_bytes": max_header_bytes,
            "head_timeout_s": head_timeout_s,
            "metrics": metrics,
            "balance": balance,
        },
    )
