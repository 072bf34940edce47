"""One request: its ID, head, and record for log and metrics.

Does not know what requests are for; routes put what is to be logged into the request's `Access`.
"""

import itertools
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import orjson
from starlette.types import Scope

from service import limits
from service.errors import ErrorResponse, MalformedHeader, UnsupportedMediaType

CYCLE, BEGAN, JOB = "msd.cycle", "msd.began", "msd.job"
"""In a scope: the server's side of the request; when it began; its job, if the engine has read it."""
KEY = "msd.key"
"""In a scope: the name of the API key, if keys are required."""
_ACCESS = "msd.access"
OIP = "/v2"
_INVALID = 422
_ID = b"x-request-id"
_MAX_ID_BYTES = 128
# Request IDs must be unique; they are not secret. A counter in a process costs less than random bytes.
_PROCESS = secrets.token_hex(8)
_NUMBERS = itertools.count()
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


def deadline_of(scope: Scope, default_s: float) -> tuple[float, float, bool]:
    """Return when a request began and its deadline, as times of `time.perf_counter`, and whether its head sets that.
    Raises MalformedHeader."""
    granted: bytes | None = None
    for name, value in scope["headers"]:
        if name == _DEADLINE:
            if granted is not None:
                raise MalformedHeader("is given twice", FIELD)
            granted = value
    began: float | None = scope.get(BEGAN)
    if began is None:
        began = time.perf_counter()
    return began, began + (default_s if granted is None else _seconds(granted)), granted is not None


def _seconds(granted: bytes) -> float:
    digits, most = granted.strip(), limits.MAX_DEADLINE_MS
    if digits.isdigit() and len(digits) <= _MAX_DIGITS and 1 <= int(digits) <= most:
        return int(digits) / 1000
    shown = granted[:40].decode("latin-1")
    refused = MalformedHeader(f"{shown!r} is not a whole number of milliseconds from 1 to {most}", FIELD)
    # For clients that want the maximum.
    refused.headers = ((_DEADLINE, b"%d" % most),)
    raise refused
