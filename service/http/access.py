"""What every request passes: its ID, its record for log and metrics, and an answer to any error, with one log line.

Pure ASGI. Does not know what requests are for; routes put what is to be logged into the request's `Access`.
"""

import itertools
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msd.contract.request import RequestError
from service.errors import ClientGone, ErrorResponse, ServiceError
from service.telemetry.metrics import Metrics

BEGAN, JOB, KEY, CYCLE = "msd.began", "msd.job", "msd.key", "msd.cycle"
"""In a scope: when the request began; its job, if the engine has read it; the name of the API key, if keys are
required; the server's side of the request (`bridge`)."""
_ACCESS = "msd.access"
OIP, PLAYGROUND = "/v2", "/playground/"
_SCORING = ("/v1/score", "/v1/openrtb", f"{PLAYGROUND}score-without")
_ID = b"x-request-id"
_MAX_ID_BYTES = 128
# Request IDs must be unique; they are not secret. A counter in a process costs less than random bytes.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count()
_EVENTS = "/v1/events"
_CLIENT_GONE = 499
# These are logged once by the service, not for each request: not ready, keys refused, overload.
_NO_NEWS = (401, 403, 429, _CLIENT_GONE, 503, 504)
_SHOWN_PATH = 200
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Access:
    """The record of one request, for log and metrics."""

    request_id: str
    started: float
    """Of `time.perf_counter`, as is `ended`, when the reply was ready to send."""
    ended: float = 0.0
    status: int = 0
    error: str | None = None


def is_scoring(path: str) -> bool:
    return path in _SCORING or (path.startswith(f"{OIP}/") and path.endswith("/infer"))


def access_of(scope: Scope) -> Access:
    """Return the record of a request."""
    access: Access | None = scope.get(_ACCESS)
    if access is None:
        began = scope.get(BEGAN) or time.perf_counter()
        access = scope[_ACCESS] = Access(_request_id_of(scope["headers"]), began)
    return access


def _request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == _ID and 0 < len(value) <= _MAX_ID_BYTES and all(0x20 <= byte <= 0x7E for byte in value):
            return str(value, "ascii")
    return f"{_PROCESS}{next(_NUMBERS):016x}"


def error_response(error: Exception, path: str) -> ErrorResponse:
    """Return the error reply in the form of this path's API."""
    return ErrorResponse(error, path == OIP or path.startswith(f"{OIP}/"))


class AccessMiddleware:
    """The outermost layer. It counts requests, and logs those that failed."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._log = structlog.get_logger("msd.access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = access_of(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                access.ended, access.status = time.perf_counter(), message["status"]
                message["headers"] = [*message.get("headers", ()), (_ID, access.request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientGone:
            access.status = _CLIENT_GONE
        except Exception as error:
            is_begun = bool(access.status)
            if not isinstance(error, ServiceError | RequestError | HTTPException):
                self._log.error("internal_error", request_id=access.request_id, exc_info=error)
            response = error_response(error, scope["path"])
            access.error = response.code
            if is_begun:
                raise
            await send_reply(send_with_id, response.status, response.headers, response.body)
        finally:
            self._finish(scope, access)

    def _finish(self, scope: Scope, access: Access) -> None:
        seconds = (access.ended or time.perf_counter()) - access.started
        if scope["method"] == "POST" and is_scoring(scope["path"]):
            self._metrics.request(access.status or 500, seconds)
        elif scope["method"] == "POST" and scope["path"] == _EVENTS:
            self._metrics.event_request(access.status or 500, seconds)
        if access.status >= 400 and access.status not in _NO_NEWS:
            more = {"key": scope.get(KEY), "error": access.error}
            self._log.info(
                "request",
                request_id=access.request_id,
                method=scope["method"],
                path=scope["path"][:_SHOWN_PATH],
                status=access.status,
                ms=round(seconds * 1000, 3),
                **{name: value for name, value in more.items() if value is not None},
            )


async def send_reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
