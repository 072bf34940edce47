"""One client's connection: bounds in bytes and time, the order of its requests, and its end. Does not know how a
request is parsed (`parser`) or answered.
"""

import time
from asyncio import Transport
from asyncio.events import TimerHandle
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import httptools
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service import limits
from service.errors import BadHttp, ErrorResponse, Overloaded, ServiceError
from service.http.exchange import BEGAN, CLOSES, CYCLE, Exchange, reply_bytes
from service.http.inflight import Inflight
from service.http.parser import BoundedParser
from service.settings import Settings
from service.telemetry.metrics import Close, Metrics

# A body that is late is the app's to wait for, within its bounds.
_HOLD_S = 0.05
_GOODBYE_S = 2.0
_WAITING_BYTES = 4_096
"""Bytes that a waiting request takes, beside its head and body."""
_PASSED_BODIES = 8
"""Maximum bodies that may pass unread after a reply: a client that still writes does not read."""


class Shortcut(Protocol):
    """Answers some whole requests without the app."""

    def takes(self, scope: Scope) -> bool:
        """Return whether a request may qualify, by its head."""
        ...

    def begin(self, exchange: Exchange, give_up: Callable[[], None]) -> None:
        """Answer a request, now or later, or leave it to the app."""
        ...


class BoundedProtocol(BoundedParser):
    """The connection. Its requests are answered in order."""

    def __init__(
        self,
        *,
        settings: Settings,
        metrics: Metrics,
        inflight: Inflight,
        shortcut: Shortcut | None,
        max_waiting: int,
        **server: Any,  # noqa: ANN401 - uvicorn's own
    ) -> None:
        super().__init__(settings, **server)
        self._metrics, self._inflight, self._shortcut = metrics, inflight, shortcut
        self._max_waiting = max_waiting
        self._max_body_bytes = settings.max_body_bytes
        self._head_timeout_s = limits.HEAD_TIMEOUT_S
        self._body_timeout_s = limits.BODY_TIMEOUT_S
        self._reply_timeout_s = limits.REPLY_TIMEOUT_S
        self._answered: RequestResponseCycle | None = None
        self._exchange: Exchange | None = None
        self._coming: RequestResponseCycle | None = None
        """A request that may qualify once its body has arrived."""
        self._coming_timer: TimerHandle | None = None
        self._head_timer: TimerHandle | None = None
        self._passing_timer: TimerHandle | None = None
        """Timer while the rest of an answered request's body passes."""
        self._is_silent = True
        self._is_unfinished = self._is_ending = self._closes_after = False
        # Bytes in flight: of an unfinished head; of the latest request; of earlier ones that wait.
        self._held_head = self._held = 0
        self._held_earlier: list[int] = []
        self._passed_bytes = 0
        self._unread_since = 0.0

    # The connection

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._inflight.silent[self] = time.monotonic()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is lost: cancel all timers."""
        self._head_came()
        self._end_passing()
        self._inflight.forget(self)
        # The app notices that the client has left, and counts it.
        self._give_up_coming()
        if self._exchange is not None:
            self._exchange.end()
        # uvicorn notifies only the latest request; the one being answered may be an earlier one.
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)
        self._inflight.held -= self._held + self._held_head + sum(self._held_earlier)
        self._held = self._held_head = 0
        self._held_earlier.clear()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client half-closed. A whole request is answered before the connection ends."""
        # TLS cannot half-close.
        if self.scheme == "https":
            return False
        if self.pipeline and self.cycle.more_body:
            self._drop(self.cycle)
        if not self._is_answering or (self._answered is self.cycle and self.cycle.more_body):
            return False
        self._is_ending = True
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            self._passed_bytes += len(data)
            if self._passed_bytes > _PASSED_BODIES * self._max_body_bytes:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        try:
            self.feed(data)
        except httptools.HttpParserError:
            self._refuse(self.fault or BadHttp("the request is not valid HTTP/1.1"))
            return
        if self.is_head_due or self.is_body_due or self._passing_timer is not None:
            self._judge_unfinished(len(data))

    def give_way(self) -> None:
        """Refuse the unfinished request because others need its room, and close."""
        self._inflight.forget(self)
        if not self.transport.is_closing():
            self._refuse(_out_of_room())

    def give_place(self) -> None:
        """Close, because another client needs a connection."""
        self._inflight.forget(self)
        self._close("made_room")

    @property
    def is_owed_replies(self) -> bool:
        """Return whether a whole request is not answered yet."""
        return bool(self.pipeline) or (self._is_answering and not self.cycle.more_body)

    @property
    def is_idle(self) -> bool:
        """Return whether it only waits for its client's next request."""
        return self.timeout_keep_alive_task is not None

    def judge_reader(self, now: float) -> int:
        """Close the connection if its client does not read. Called about once a second. Return the unread bytes."""
        unread: int = self.transport.get_write_buffer_size()
        if not unread:
            self._unread_since = 0.0
        elif not self._unread_since:
            self._unread_since = now
        elif now - self._unread_since > self._reply_timeout_s:
            self.stop_writing()
        return unread

    def stop_writing(self) -> None:
        """Close at once, without pending writes."""
        self._metrics.closed["slow_reader"].inc()
        self.transport.abort()

    # Callbacks of the parser

    def on_headers_complete(self) -> None:
        if not self.is_request():
            return
        if len(self.pipeline) >= self._max_waiting:
            self.fail(BadHttp(f"more than {self._max_waiting} requests wait on this connection; wait for replies"))
        self._head_came()
        if self._is_answering:
            self._held_earlier.append(self._held)
            self._held = 0
            self._hold(_WAITING_BYTES + self.head_bytes)
        super().on_headers_complete()
        self.scope[CYCLE] = self.cycle  # type: ignore[literal-required]
        self.scope[BEGAN] = self.began_at  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self.body_bytes += len(body)
        if cycle.response_complete:
            return
        self._hold(len(body))
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            # Reading continues as the app consumes the body.
            self.flow.pause_reading()
            if self._coming is cycle:
                self._give_up_coming()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.is_offer:
            return
        self.is_body_due = False
        if self._is_unfinished:
            self._is_unfinished = False
            self._inflight.unfinished.pop(self, None)
        cycle = self.cycle
        cycle.more_body = False
        if cycle.response_complete:
            return
        cycle.message_event.set()
        if self._coming is cycle:
            self._begin_coming()

    def _judge_unfinished(self, size: int) -> None:
        """Judge an unfinished request after new bytes."""
        if self._passing_timer is not None and not (self.is_body_due and self.cycle.response_complete):
            self._body_passed()
        if not (self.is_head_due or self.is_body_due):
            return
        if not self._is_unfinished:
            self._is_unfinished = True
            self._inflight.unfinished[self] = None
        if self.is_head_due:
            # A head that arrives whole, as nearly always, needs no timer.
            if self._head_timer is None:
                self._await_head()
            self._held_head += size
            self._inflight.held += size
        self._await_coming()
        if (fault := self.excess(size)) is not None:
            self._refuse(fault)
        elif not self._inflight.has_room(self):
            self._refuse(_out_of_room())
        elif self._passing_timer is not None and self.body_bytes > _PASSED_BODIES * self._max_body_bytes:
            self._close("unread_body")

    def _hold(self, size: int) -> None:
        self._held += size
        self._inflight.held += size
        if self._inflight.held > self._inflight.limit and not self._inflight.has_room(self):
            self.fail(_out_of_room())

    def _let_go_of_bytes(self) -> None:
        self._inflight.held -= self._held
        self._held = 0

    # The shortcut

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._answered = cycle
        if self._shortcut is None or cycle.waiting_for_100_continue or not self._shortcut.takes(cycle.scope):  # type: ignore[arg-type]
            super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]
            return
        self._coming = cycle
        if not cycle.more_body:
            self._begin_coming()

    def _begin_coming(self) -> None:
        if (cycle := self._take_coming()) is not None and self._shortcut is not None:
            self._exchange = Exchange(cycle)
            self._shortcut.begin(self._exchange, partial(super()._start_asgi_task, cycle, self.app))

    def _await_coming(self) -> None:
        if self._coming is not None and self._coming_timer is None:
            self._coming_timer = self.loop.call_later(_HOLD_S, self._give_up_coming)

    def _give_up_coming(self) -> None:
        if (cycle := self._take_coming()) is not None:
            super()._start_asgi_task(cycle, self.app)

    def _take_coming(self) -> RequestResponseCycle | None:
        cycle, self._coming = self._coming, None
        if self._coming_timer is not None:
            self._coming_timer.cancel()
            self._coming_timer = None
        return cycle

    # Replies

    @property
    def _is_answering(self) -> bool:
        answered = self._answered
        is_due = answered is not None and not (answered.response_complete or answered.disconnected)
        return is_due or bool(self.pipeline)

    def on_response_complete(self) -> None:
        """A reply is written: continue with another request, the rest of this body, or the end."""
        self._exchange = None
        if self._answered is not None:
            self._answered.body = bytearray()
        if self._held_earlier:
            self._inflight.held -= self._held_earlier.pop(0)
        else:
            self._let_go_of_bytes()
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._is_answering:
            # Part of the next request may have arrived with nothing after it.
            self._await_coming()
            if self._is_ending:
                self.flow.pause_reading()
        elif self._is_ending:
            self._end()
        elif self.cycle.more_body:
            self._let_body_pass()

    def _let_body_pass(self) -> None:
        """Discard the rest of a body: a client that still writes when the connection closes may never see its reply."""
        self._unset_keepalive_if_required()
        self._closes_after = CLOSES in self.cycle.scope
        self._passing_timer = self.loop.call_later(self._body_timeout_s, self._close, "unread_body")

    def _body_passed(self) -> None:
        """The rest of the body has passed: continue, or close if the client asked for that."""
        self._end_passing()
        if self._closes_after:
            self.transport.close()
        elif self.cycle.response_complete and not self.is_head_due:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _end_passing(self) -> None:
        if self._passing_timer is not None:
            self._passing_timer.cancel()
            self._passing_timer = None

    # The end

    def _refuse(self, fault: ServiceError) -> None:
        """Send the error after the pending replies, and close."""
        self._metrics.closed["out_of_room" if isinstance(fault, Overloaded) else "bad_http"].inc()
        self._head_came()
        self.fault, self._is_ending = fault, True
        if (cycle := self.cycle) is not None and cycle.more_body:
            if cycle.response_started:
                self.transport.close()
                return
            # The fault is in this request's own body, so nothing else will answer it.
            self._drop(cycle)
        if self._is_answering:
            self.flow.pause_reading()
        else:
            self._end()

    def _drop(self, cycle: RequestResponseCycle) -> None:
        """Drop the latest, unfinished request without an answer."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        cycle.disconnected = True
        cycle.body = bytearray()
        cycle.message_event.set()
        self._let_go_of_bytes()

    def _end(self) -> None:
        if self.fault is None:
            self.transport.close()
            return
        self.fault.closes = True
        response = ErrorResponse(self.fault)
        headers = [*self.server_state.default_headers, *response.headers]
        self.transport.write(reply_bytes(response.status, headers, response.body))
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        # Closing at once would reset a client that still writes, before it reads the error.
        self.transport.write_eof()
        self.flow.resume_reading()
        self._inflight.silent[self] = time.monotonic()
        self._passing_timer = self.loop.call_later(_GOODBYE_S, self.transport.close)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_timeout_s, self._give_up_head)

    def _give_up_head(self) -> None:
        if self.flow.read_paused:
            # The rest of the head may have arrived: it is not read while earlier requests are answered.
            self._await_head()
        else:
            self._close("slow_head")

    def _close(self, reason: Close) -> None:
        self._metrics.closed[reason].inc()
        self.transport.close()

    def _head_came(self) -> None:
        self.is_head_due = False
        if self._is_silent:
            self._is_silent = False
            self._inflight.silent.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._held_head:
            self._inflight.held -= self._held_head
            self._held_head = 0


def _out_of_room() -> ServiceError:
    return Overloaded("too many request bytes in flight; retry")
