"""uvicorn's httptools protocol with what it leaves unbounded bounded: the bytes and the time of a request's head, the
requests that wait on a connection, the time to take a reply. What is no HTTP gets an error of the usual form."""

import time
from asyncio import Transport
from asyncio.events import TimerHandle
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Protocol

import httptools
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.errors import BadHttp, ErrorResponse, HeadTooLarge, ServiceError, TargetTooLong
from service.http.exchange import BEGAN, Exchange
from service.http.upgrade import Offers
from service.telemetry.metrics import Metrics

_CYCLE = "msd.cycle"
_MAX_HEADERS = 100
# A body that has not come by then is the app's to wait for, within its bounds.
_HOLD_S = 0.05
_MAX_TARGET_BYTES = 8_192
_MAX_WAITING = 100


class Shortcut(Protocol):
    """Answers some requests that came whole without the app."""

    def takes(self, scope: Scope) -> bool:
        """Whether a request whose head came may be one."""
        ...

    def begin(self, exchange: Exchange, give_up: Callable[[], None]) -> None:
        """Answers a request, now or later, or gives it up to the app."""
        ...


class BoundedProtocol(HttpToolsProtocol):
    """A protocol whose heads have at most `max_header_bytes` and take at most `head_timeout_s`, and whose replies are
    to be taken within `reply_timeout_s`."""

    max_header_bytes: ClassVar[int]
    head_timeout_s: ClassVar[float]
    reply_timeout_s: ClassVar[float]
    metrics: ClassVar[Metrics]
    shortcut: ClassVar[Shortcut | None] = None
    _held: RequestResponseCycle | None = None
    """A request whose body is on its way, and that may go by the shortcut when it has come."""
    _held_timer: TimerHandle | None = None
    _exchange: Exchange | None = None
    _head_bytes = 0
    _headers = 0
    _is_head_due = False
    _is_body_due = False
    _is_ending = False
    _unparsed_bytes = 0
    _began_at = 0.0
    _head_timer: TimerHandle | None = None
    _unread_since = 0.0
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client connected: its first head is due."""
        super().connection_made(transport)
        self._offers = Offers()
        self._fault: ServiceError | None = None
        self._is_head_due = True
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._head_came()
        # The app learns that the client has left, and counts it.
        self._give_up_held()
        if self._exchange is not None:
            self._exchange.end()
        # uvicorn tells the latest request alone; the one that is being answered may be an earlier one.
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came. The parser shows a header only when it is whole, so one that never is has to be counted here."""
        if self._is_ending:
            return
        was_due = self._is_head_due
        data = self._offers.pass_over(data, self._is_body_due)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # CONNECT: what follows its head is nothing that is understood here
            self._end_after_replies()
        except httptools.HttpParserError:
            self._refuse(self._fault or BadHttp("the request is not HTTP/1.1 as the standard has it"))
            return
        self._await_held()
        if not self._is_head_due:
            self._unparsed_bytes = 0
            return
        # Of a head that comes whole, which is all but always, no timer is made.
        if self._head_timer is None:
            self._await_head()
        self._unparsed_bytes = self._unparsed_bytes + len(data) if was_due else 0
        if self._unparsed_bytes > self.max_header_bytes:
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        """A head begins."""
        self._head_bytes = self._headers = 0
        self._is_head_due = True
        self._began_at = time.perf_counter()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        super().on_url(url)
        if len(self.url) > _MAX_TARGET_BYTES:
            self._fault = TargetTooLong(f"the target has more than {_MAX_TARGET_BYTES} bytes")
            raise self._fault
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one that trails a body."""
        self._headers += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head came."""
        self._head_came()
        self._is_body_due = True
        if len(self.pipeline) >= _MAX_WAITING:
            self._fault = BadHttp(f"{_MAX_WAITING} requests wait on this connection; wait for replies")
            raise self._fault
        super().on_headers_complete()
        self.scope[_CYCLE] = self.cycle  # type: ignore[literal-required]
        self.scope[BEGAN] = self._began_at  # type: ignore[literal-required]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._answered = cycle
        if self.shortcut is None or cycle.waiting_for_100_continue or not self.shortcut.takes(cycle.scope):  # type: ignore[arg-type]
            super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]
            return
        self._held = cycle
        if not cycle.more_body:
            self._begin_held(self.shortcut)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        super().on_body(body)
        if self._held is not None and self._held is self.cycle and len(self.cycle.body) > HIGH_WATER_LIMIT:
            # Reading pauses here, and goes on as the app takes what has come.
            self._give_up_held()

    def on_message_complete(self) -> None:
        """The body came."""
        self._is_body_due = False
        super().on_message_complete()
        if self.shortcut is not None and self._held is not None and self._held is self.cycle:
            self._begin_held(self.shortcut)

    def _begin_held(self, shortcut: Shortcut) -> None:
        if (cycle := self._let_go()) is not None:
            self._exchange = Exchange(cycle)
            shortcut.begin(self._exchange, partial(super()._start_asgi_task, cycle, self.app))

    def _await_held(self) -> None:
        if self._held is not None and self._held_timer is None:
            self._held_timer = self.loop.call_later(_HOLD_S, self._give_up_held)

    def _give_up_held(self) -> None:
        if (cycle := self._let_go()) is not None:
            super()._start_asgi_task(cycle, self.app)

    def _let_go(self) -> RequestResponseCycle | None:
        cycle, self._held = self._held, None
        if self._held_timer is not None:
            self._held_timer.cancel()
            self._held_timer = None
        return cycle

    def on_response_complete(self) -> None:
        """A reply is written. What of its request's body has not come by then is not waited for."""
        super().on_response_complete()
        # Of the next one a part may have come that nothing follows.
        self._await_held()
        if self._is_ending or (self.cycle.response_complete and self.cycle.more_body):
            self.transport.close()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for nothing but its client's next request."""
        return self.timeout_keep_alive_task is not None

    def judge_reader(self, now: float) -> None:
        """Ends the connection of a client that does not take what it asked for. Called about once a second."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = 0.0
        elif not self._unread_since:
            self._unread_since = now
        elif now - self._unread_since > self.reply_timeout_s:
            self.metrics.closed["slow_reader"].inc()
            self.transport.abort()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.max_header_bytes or self._headers > _MAX_HEADERS:
            self._fault = self._too_large()
            raise self._fault

    def _too_large(self) -> ServiceError:
        return HeadTooLarge(f"the head has more than {self.max_header_bytes} bytes or {_MAX_HEADERS} headers")

    def _refuse(self, fault: ServiceError) -> None:
        """Says what is wrong, and ends. A client that waits for earlier replies would take this for one of them."""
        self.metrics.closed["bad_http"].inc()
        self._head_came()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or not cycle.more_body or cycle.response_started:
                self._end_after_replies()
                return
            # It is this one's own body that is wrong, so that nobody is to answer it any more.
            cycle.disconnected = True
            cycle.message_event.set()
        self._is_ending = True
        response = ErrorResponse(fault)
        lines = (b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *response.headers))
        self.transport.write(b"".join((STATUS_LINE[response.status], *lines, b"\r\n", response.body)))
        self.transport.close()

    def _end_after_replies(self) -> None:
        """Answers the request that is being answered, and no other."""
        self._is_ending = True
        self.pipeline.clear()
        self.flow.pause_reading()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _give_up(self) -> None:
        self.metrics.closed["slow_head"].inc()
        self.transport.close()

    def _head_came(self) -> None:
        self._is_head_due = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def began_at(scope: Scope) -> float:
    """When a request's first byte was read, by `time.perf_counter`."""
    began: float | None = scope.get(BEGAN)
    return time.perf_counter() if began is None else began


def cycle_of(scope: Scope) -> RequestResponseCycle | None:
    """The server's own side of a request; None where it came otherwise."""
    cycle: RequestResponseCycle | None = scope.get(_CYCLE)
    return cycle


def expect_no_reply(scope: Scope) -> None:
    """The client of a request has left, which the server may not have been told: its end is a moment later than its
    beginning."""
    if (cycle := cycle_of(scope)) is not None:
        cycle.disconnected = True


def is_whole(scope: Scope) -> bool:
    """Whether all of a request's body has come, so that it need not be waited for."""
    cycle = cycle_of(scope)
    return cycle is not None and not cycle.more_body


def left_check(scope: Scope) -> Callable[[], bool]:
    """Tells at any time, at no cost until then, whether the request's client has left."""
    cycle = cycle_of(scope)
    return _stays if cycle is None else cycle.transport.is_closing


def _stays() -> bool:
    return False


def bounded_protocol(
    max_header_bytes: int,
    head_timeout_s: float,
    reply_timeout_s: float,
    metrics: Metrics,
    shortcut: Shortcut | None = None,
) -> type[HttpToolsProtocol]:
    """The protocol with its limits; uvicorn takes a class and makes the instances itself."""
    return type(
        "BoundedProtocol",
        (BoundedProtocol,),
        {
            "max_header_bytes": max_header_bytes,
            "head_timeout_s": head_timeout_s,
            "reply_timeout_s": reply_timeout_s,
            "metrics": metrics,
            "shortcut": shortcut,
        },
    )
