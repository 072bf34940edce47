"""Requests that the native front hands over, as an ASGI app sees them; and what it asks for. For the event loop.

The front reads and bounds them, and writes replies in order. Does not know routes.
"""

import asyncio
import os
import time
from collections.abc import Coroutine
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

import structlog
from starlette.types import ASGIApp, Message, Scope

from native import core
from service.http.access import BEGAN, CYCLE, JOB, Headers

_CLOSE = (b"connection", b"close")
_WITHOUT_LENGTH = (204, 304)
_GONE: Message = {"type": "http.disconnect"}
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Scoring(Protocol):
    """What the engine's jobs need of Python."""

    answer: ASGIApp
    """Answers a request by its job, which has ended."""

    def judge(self, number: int, key: bytes) -> None:
        """Judge the key of a request, and let it go on."""
        ...

    def follow(self, seen: Any) -> None:  # noqa: ANN401 - whatever it has kept
        """Learn what was kept of a request that the engine has answered."""
        ...

    async def provide(self, job: "core.AwayJob") -> None:
        """Fetch what a job lacks, and let it go on."""
        ...


class Bridge:
    """Answers the front's requests by an app."""

    def __init__(self, front: "core.Front", app: ASGIApp, scoring: Scoring | None) -> None:
        """`scoring`: None if the port scores nothing."""
        self.front = front
        self._app = app
        self._scoring = scoring
        self._cycles: dict[int, RequestCycle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._date, self._date_at = b"", -1
        self.is_draining = False
        self.log = structlog.get_logger("msd.server")

    def open(self) -> None:
        asyncio.get_running_loop().add_reader(self.front.descriptor, self._take)

    def close(self) -> None:
        """Answer no more; but learn of all that the engine has answered. Called after the front has stopped."""
        asyncio.get_running_loop().remove_reader(self.front.descriptor)
        for event in self.front.take_events():
            if isinstance(event, core.Answered) and self._scoring is not None:
                self._learn(event)
        for task in self._tasks:
            task.cancel()

    def forget(self, number: int) -> None:
        self._cycles.pop(number, None)

    @property
    def default_headers(self) -> Headers:
        """Return the first headers of every reply."""
        now = int(time.time())
        if now != self._date_at:
            self._date, self._date_at = formatdate(now, usegmt=True).encode(), now
        date = (b"date", self._date)
        return [date, _CLOSE] if self.is_draining else [date]

    def _take(self) -> None:
        for event in self.front.take_events():
            if isinstance(event, core.HandedRequest):
                self._cycles[event.number] = begun = RequestCycle(self, event)
                has_job = event.job is not None
                self._begin(begun.run(self._scoring.answer if has_job and self._scoring is not None else self._app))
            elif isinstance(event, core.NotAccepted):
                self.log.error("cannot_accept", reason=os.strerror(event.reason))
            elif isinstance(event, core.HandedBody):
                if (cycle := self._cycles.get(event.number)) is not None:
                    cycle.come(event.bytes, event.is_last)
            elif isinstance(event, core.ClientGone):
                if (cycle := self._cycles.get(event.number)) is not None:
                    cycle.leave()
            else:
                self._help(event)

    def _help(self, event: "core.UnknownKey | core.AwayJob | core.Answered") -> None:
        if self._scoring is None:
            raise RuntimeError("the port scores nothing")
        if isinstance(event, core.UnknownKey):
            self._scoring.judge(event.number, event.key)
        elif isinstance(event, core.AwayJob):
            self._begin(self._scoring.provide(event))
        else:
            self._learn(event)

    def _learn(self, answered: "core.Answered") -> None:
        assert self._scoring is not None, "only a port that scores is told of scores"
        for seen in answered.seen:
            self._scoring.follow(seen)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class RequestCycle:
    """One request and its reply. `is_whole`: all of its body has arrived; `is_late`: it was waited for, in vain;
    `is_gone`: the client has left."""

    def __init__(self, bridge: Bridge, handed: "core.HandedRequest") -> None:
        self.is_whole, self.is_late, self.is_gone = handed.is_whole, handed.is_late, False
        self._bridge, self._number = bridge, handed.number
        self._closes, self._expects = handed.closes, handed.expects
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._is_answered = False
        self._is_head = handed.method == b"HEAD"
        self._start: Message | None = None
        self._parts: list[bytes] = []
        path, _, query = handed.target.partition(b"?")
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if handed.is_old else "1.1",
            "server": None,
            "client": handed.client,
            "scheme": "https" if handed.is_secure else "http",
            "method": handed.method.decode(),
            "root_path": "",
            "path": unquote(path.decode()),
            "raw_path": path,
            "query_string": query,
            "headers": handed.headers,
            "state": {},
            CYCLE: self,
            BEGAN: handed.began,
            JOB: handed.job,
        }

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        except Exception:
            # An app that has answered has logged it.
            if not self._is_answered:
                self._bridge.log.exception("reply_failed", path=self.scope["path"])
        finally:
            self._bridge.forget(self._number)
            if not self._is_answered:
                self._bridge.front.abandon(self._number)

    def come(self, body: bytes, is_whole: bool) -> None:
        """The body has come, or as much of it as exceeds the limit; then its end."""
        self.is_whole = is_whole
        self._messages.put_nowait({"type": "http.request", "body": body, "more_body": not is_whole})

    def leave(self) -> None:
        """The client has left."""
        self.is_gone = True
        self._messages.put_nowait(_GONE)

    async def _receive(self) -> Message:
        if self._expects and not self.is_whole:
            self._expects = False
            self._bridge.front.go_on(self._number)
        return _GONE if self.is_gone else await self._messages.get()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._parts.append(message.get("body", b""))
        is_last = not message.get("more_body", False)
        if self._start is not None:
            if not is_last and not any(name == b"content-length" for name, _ in self._start["headers"]):
                return
            self._write_head(self._start)
            self._start = None
        data = b"".join(self._parts)
        self._parts.clear()
        self._is_answered = is_last
        self._bridge.front.reply(self._number, data, is_last, self._closes_now)

    def _write_head(self, start: Message) -> None:
        """Put the head before the body. Without a length, the body is whole."""
        status, headers = start["status"], [*self._bridge.default_headers, *start["headers"]]
        if status not in _WITHOUT_LENGTH and not any(name == b"content-length" for name, _ in headers):
            headers.append((b"content-length", b"%d" % sum(map(len, self._parts))))
        # A client that expects `100 Continue` may send its body or omit it: the next bytes cannot be told apart.
        self._closes_now = _CLOSE in headers or (self._expects and not self.is_whole)
        if (self._closes or self._closes_now) and _CLOSE not in headers:
            headers.append(_CLOSE)
        if self._is_head:
            self._parts.clear()
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._parts.insert(0, b"%b%b\r\n" % (_STATUS_LINES[status], lines))
