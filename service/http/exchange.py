"""One request: its ID, head, and record for log and metrics.

Does not know what requests are for; routes put what is to be logged into the request's `Access`.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.types import Scope

from msd.contract.request import RequestError
from service import limits
from service.errors import ClientGone, ErrorResponse, MalformedHeader, ServiceError, UnsupportedMediaType
from service.settings import Settings
from service.telemetry.metrics import Metrics

CYCLE, BEGAN, JOB = "msd.cycle", "msd.began", "msd.job"
"""In a scope: the server's side of the request; when it began; its job, if the engine has read it."""
KEY = "msd.key"
"""In a scope: the name of the API key, if keys are required."""
_ACCESS = "msd.access"
OIP = "/v2"
_EVENTS = "/v1/events"
CLIENT_GONE = 499
_INVALID = 422
# These are logged once by the service, not for each request: not ready, keys refused, overload.
_NO_NEWS = (401, 403, 429, 499, 503, 504)
_ID = b"x-request-id"
_MAX_ID_BYTES = 128
# Request IDs must be unique; they are not secret. A counter in a process costs less than random bytes.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count()
_SHOWN_PATH = 200
FIELD = "X-Deadline-Ms"
_DEADLINE = FIELD.lower().encode()
_MAX_DIGITS = 9
Headers = list[tuple[bytes, bytes]]


class Cycle(Protocol):
    """The server's side of a request."""

    is_gone: bool
    """Whether the client has left. For any thread."""
    is_whole: bool
    """Whether the whole body has arrived."""


@dataclass(slots=True)
class Access:
    """The record of one request, for log and metrics."""

    request_id: str
    started: float
    """Of `time.perf_counter`, as is `ended`, when the reply was ready to send."""
    ended: float = 0.0
    status: int = 0
    is_scoring: bool = False
    error: str | None = None

    def reply_begins(self, status: int) -> tuple[bytes, bytes]:
        """Record that the reply is ready, and return the headers of every reply."""
        self.ended = time.perf_counter()
        self.status = status
        return _ID, self.request_id.encode()


def access_of(scope: Scope) -> Access:
    """Return the record of a request on either path."""
    access: Access | None = scope.get(_ACCESS)
    if access is None:
        access = scope[_ACCESS] = Access(_request_id_of(scope["headers"]), time.perf_counter())
    return access


def _request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == _ID and 0 < len(value) <= _MAX_ID_BYTES and all(0x20 <= byte <= 0x7E for byte in value):
            return str(value, "ascii")
    return f"{_PROCESS}{next(_NUMBERS):016x}"


class AccessLog:
    """Counts finished requests, and logs those that failed."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._log = structlog.get_logger("msd.access")

    def failed(self, scope: Scope, error: BaseException) -> ErrorResponse | None:
        """Return the reply to an error; None if the client has left."""
        access = access_of(scope)
        if isinstance(error, ClientGone | asyncio.CancelledError):
            access.status = CLIENT_GONE
            return None
        if not isinstance(error, ServiceError | RequestError | HTTPException):
            self._log.error("internal_error", request_id=access.request_id, exc_info=error)
        response = error_response(cast(Exception, error), scope["path"])
        access.error = response.code
        return response

    def finish(self, scope: Scope) -> None:
        """Finish a request: count it, and log its failure."""
        access = access_of(scope)
        seconds = (access.ended or time.perf_counter()) - access.started
        if access.is_scoring:
            self._metrics.request(access.status or 500, seconds)
        elif scope["path"] == _EVENTS and scope["method"] == "POST":
            self._metrics.event_request(access.status or 500, seconds)
        if access.status < 400 or access.status in _NO_NEWS:
            return
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


class OipErrorResponse(ErrorResponse):
    """Error of the Open Inference Protocol: one text, and status 400 for any invalid request."""

    __slots__ = ()

    def _form(self, message: str, field: str | None) -> bytes:
        if self.status == _INVALID:
            self.status = 400
        return orjson.dumps({"error": f"{field}: {message}" if field else message})


def error_response(error: Exception, path: str) -> ErrorResponse:
    """Return the error reply in the form of this path's API."""
    is_ours = path == OIP or path.startswith(f"{OIP}/")
    return OipErrorResponse(error) if is_ours else ErrorResponse(error)


def cycle_of(scope: Scope) -> Cycle | None:
    """Return the server's side of a request; None if it came otherwise."""
    cycle: Cycle | None = scope.get(CYCLE)
    return cycle


def left_check(scope: Scope) -> Callable[[], bool]:
    """Return a callable that says whether the client has left."""
    cycle = cycle_of(scope)
    return lambda: cycle is not None and cycle.is_gone


def check_encoding(scope: Scope, instead: str = "plain JSON") -> None:
    """Raise UnsupportedMediaType if the headers declare a compressed body. `instead`: what is to be sent."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedMediaType(f"compressed bodies are not supported; send {instead}")


def check_json(scope: Scope) -> None:
    """Raise UnsupportedMediaType if the headers do not declare plain JSON."""
    check_encoding(scope)
    media_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.split(b";")[0].strip().lower()
    if media_type != b"application/json":
        shown = media_type[:60].decode("latin-1") or "missing"
        raise UnsupportedMediaType(f"invalid content type {shown!r}; expected 'application/json'")


class Deadlines:
    """The deadlines of requests, as times of `time.perf_counter`."""

    __slots__ = ("_default_s",)

    def __init__(self, settings: Settings) -> None:
        self._default_s = settings.deadline_ms / 1000

    def of(self, scope: Scope) -> tuple[float, float, bool]:
        """Return when a request began, its deadline, and whether its head sets that. Raises MalformedHeader."""
        granted: bytes | None = None
        for name, value in scope["headers"]:
            if name == _DEADLINE:
                if granted is not None:
                    raise MalformedHeader("is given twice", FIELD)
                granted = value
        began: float | None = scope.get(BEGAN)
        if began is None:
            began = time.perf_counter()
        seconds = self._default_s if granted is None else self._seconds(granted)
        return began, began + seconds, granted is not None

    def _seconds(self, granted: bytes) -> float:
        digits = granted.strip()
        if digits.isdigit() and len(digits) <= _MAX_DIGITS and 1 <= int(digits) <= limits.MAX_DEADLINE_MS:
            return int(digits) / 1000
        shown = granted[:40].decode("latin-1")
        most = limits.MAX_DEADLINE_MS
        refused = MalformedHeader(f"{shown!r} is not a whole number of milliseconds from 1 to {most}", FIELD)
        # For clients that want the maximum.
        refused.headers = ((_DEADLINE, b"%d" % most),)
        raise refused
