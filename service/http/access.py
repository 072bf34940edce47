"""What every HTTP request gets whatever its route: an id, an answer to any error, one line in the log.

Pure ASGI. Does not know what the routes do; they leave what should be logged in the request's `Access`.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, cast

import orjson
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msd.contract.request import RequestError
from service.errors import ClientGone, ErrorResponse, ServiceError
from service.http.exchange import expect_no_reply, reply_before_body
from service.telemetry.metrics import Metrics

CLIENT_GONE = 499
KEY = "msd.key"
"""In a scope: the name of the key that was given, where keys are asked for."""
OIP = "/v2"
_ACCESS = "msd.access"
_INVALID = 422
# Ids are to differ, not to be guarded: a number in a process costs less than a random one each time.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count()
_HEADER = b"x-request-id"
_MAX_ID_BYTES = 128
_SHOWN_PATH = 200
_EVENTS = "/v1/events"
# The service says in its log itself, once and not for each request, that it is not ready, refuses keys or has too much
# to do.
_NO_NEWS = (401, 403, 429, 499, 503, 504)


@dataclass(slots=True)
class Access:
    """One request as the log and the metrics will tell it."""

    request_id: str
    started: float
    """Of `time.perf_counter`, as is `ended`, when the reply was ready to be sent."""
    ended: float = 0.0
    status: int = 0
    is_scoring: bool = False
    candidates: int | None = None
    degraded: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    stages: tuple[float, ...] = ()
    """How long each stage of a request took that was scored, in seconds."""
    trace_id: str | None = None


def access_of(scope: Scope) -> Access:
    """The record of the request that a route is answering."""
    access: Access = scope[_ACCESS]
    return access


class Traces(Protocol):
    """Follows requests beyond this service."""

    def note(self, scope: Scope, access: Access) -> str | None:
        """A scoring request that has ended; its trace's id, where it is traced."""
        ...


class AccessLog:
    """What is counted, logged and traced of each request, whichever way it goes."""

    def __init__(self, metrics: Metrics, is_verbose: bool = False, tracing: Traces | None = None) -> None:
        """`is_verbose`: the log is to have a line for each request, whatever became of it."""
        self._metrics = metrics
        self._is_verbose = is_verbose
        self._tracing = tracing
        self._log = structlog.get_logger("msd.access")

    def begin(self, scope: Scope) -> Access:
        """The record of a request that has come; the one that there is, where another way has given it up."""
        access: Access | None = scope.get(_ACCESS)
        if access is None:
            access = scope[_ACCESS] = Access(request_id_of(scope["headers"]), time.perf_counter())
        return access

    @staticmethod
    def reply_begins(access: Access, status: int) -> None:
        """Its reply is ready to be sent."""
        access.ended = time.perf_counter()
        access.status = status

    @staticmethod
    def header_of(access: Access) -> tuple[bytes, bytes]:
        """What every reply carries."""
        return _HEADER, access.request_id.encode()

    def failed(self, access: Access, error: BaseException, path: str) -> ErrorResponse | None:
        """What an error is answered with; None where nobody is there any more."""
        if isinstance(error, ClientGone | asyncio.CancelledError):
            access.status = CLIENT_GONE
            return None
        if not isinstance(error, ServiceError | RequestError):
            self._log.error("internal_error", request_id=access.request_id, exc_info=error)
        response = error_response(cast(Exception, error), path)
        access.error = response.code
        return response

    def finish(self, scope: Scope, access: Access) -> None:
        """Its end."""
        seconds = (access.ended or time.perf_counter()) - access.started
        if access.is_scoring:
            self._metrics.request(access.status or 500, seconds)
            if self._tracing is not None:
                access.trace_id = self._tracing.note(scope, access)
        elif scope["path"] == _EVENTS and scope["method"] == "POST":
            self._metrics.event_request(access.status or 500, seconds)
        is_news = access.status >= 400 and access.status not in _NO_NEWS
        if not is_news and not self._is_verbose:
            return
        tell = self._log.info if is_news else self._log.debug
        more = {"key": scope.get(KEY)} | {
            name: getattr(access, name) for name in ("trace_id", "candidates", "degraded", "error")
        }
        tell(
            "request",
            request_id=access.request_id,
            method=scope["method"],
            path=scope["path"][:_SHOWN_PATH],
            status=access.status,
            ms=round(seconds * 1000, 3),
            **{name: value for name, value in more.items() if value not in (None, {})},
        )


class AccessMiddleware:
    """Wraps the app's routes."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and sees to its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = self._log.begin(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._log.reply_begins(access, message["status"])
                message["headers"] = [*message.get("headers", ()), self._log.header_of(access)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            is_begun = bool(access.status)
            response = self._log.failed(access, error, scope["path"])
            if response is None:
                expect_no_reply(scope)
                return
            if is_begun:
                raise
            reply_before_body(scope)
            await send_with_id({"type": "http.response.start", "status": response.status, "headers": response.headers})
            await send_with_id({"type": "http.response.body", "body": response.body})
        finally:
            self._log.finish(scope, access)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a request brings along, or a new one."""
    for name, value in headers:
        if name == _HEADER and 0 < len(value) <= _MAX_ID_BYTES and all(0x20 <= byte <= 0x7E for byte in value):
            return str(value, "ascii")
    return f"{_PROCESS}{next(_NUMBERS):016x}"


class OipErrorResponse(ErrorResponse):
    """An error in the form of the Open Inference Protocol: one text, and 400 for whatever is wrong with a request."""

    __slots__ = ()

    def _form(self, message: str, field: str | None) -> bytes:
        if self.status == _INVALID:
            self.status = 400
        return orjson.dumps({"error": f"{field}: {message}" if field else message})


def error_response(error: Exception, path: str) -> ErrorResponse:
    """The reply to a request for this path."""
    is_ours = path == OIP or path.startswith(f"{OIP}/")
    return OipErrorResponse(error) if is_ours else ErrorResponse(error)
