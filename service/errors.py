"""Errors of the HTTP API: one tree, with status and code on the class, and one form of reply.

Does not know where they are raised. Errors at start are `MsdError`s, which end the process.
"""

import re
from http import HTTPStatus
from typing import ClassVar

import orjson
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from msd.contract.errors import MsdError
from msd.contract.request import RequestError, TooManyCandidates
from msd.contract.rows import Rows

# A path or URL, or a host with its port.
_PLACE = re.compile(r"[^\s'\"(),;=]*/[^\s'\"(),;:]+|\[[0-9a-fA-F:.]+\]:\d+|[\w.-]+:\d{1,5}\b")
_REQUEST_STATUS = {
    "malformed": 400,
    "invalid": 422,
    TooManyCandidates.code: 413,
    "too_many_events": 413,
    "too_many_items": 413,
}
DESCRIPTIONS = {
    400: "Malformed or ambiguous JSON, or an invalid header.",
    401: "Keys are required, and the API key is missing, unknown or expired.",
    403: "The API key lacks the scope.",
    404: "The bundle does not map BidRequests to features, or nothing is known of the item.",
    408: "The body was not complete in time.",
    409: "Conflict with the current state; the message says why. Nothing changed.",
    413: "Too many candidates, events or items, or too many bytes.",
    415: "The content type is not JSON.",
    422: "Valid JSON that does not match the schema; `field` says where.",
    429: "Overload: the queue is full, or scoring would be too late; retry after `Retry-After` seconds.",
    500: "Internal error.",
    503: "Not ready: starting, stopping, or a dependency is missing; retry after `Retry-After` seconds.",
    504: "Deadline exceeded, or too little time left for a model run.",
    507: "The live catalogue is full. Nothing of the batch was taken.",
}
"""Of each status, for the API's documentation."""


class ClientGone(Exception):
    """The client disconnected before its reply."""


class ServiceError(Exception):
    """A request answered with an error. `field` is the dotted path of the part at fault."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retry_after_s: ClassVar[int | None] = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    closes: bool = False

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class Unauthorized(ServiceError):
    """The API key is missing, unknown or expired."""

    status = 401
    code = "unauthorized"
    headers = ((b"www-authenticate", b"Bearer"),)


class Forbidden(ServiceError):
    """The API key lacks the scope."""

    status = 403
    code = "forbidden"


class KeysUnavailable(ServiceError):
    """The key file has been unreadable for longer than `MSD_KEYS_MAX_AGE_SECONDS`."""

    status = 503
    code = "keys_unavailable"
    retry_after_s = 1


class NoOpenrtbMapping(ServiceError):
    """The bundle does not say which values of a BidRequest are features."""

    status = 404
    code = "no_openrtb_mapping"


class UnknownItem(ServiceError):
    """Neither the export nor the live catalogue knows the item."""

    status = 404
    code = "unknown_item"


class NoRoom(ServiceError):
    """The live catalogue is full. Nothing of the batch was taken."""

    status = 507
    code = "catalogue_full"


class CatalogueUnavailable(ServiceError):
    """The live catalogue cannot be read or written. Sending the batch again is safe."""

    status = 503
    code = "catalogue_unavailable"
    retry_after_s = 1


class Conflict(ServiceError):
    status = 409
    code = "conflict"


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"


class MalformedHeader(ServiceError):
    status = 400
    code = "malformed"


class UnsupportedMediaType(ServiceError):
    """The body is not JSON by its content type."""

    status = 415
    code = "unsupported_media_type"


class BodyTimeout(ServiceError):
    status = 408
    code = "body_timeout"
    closes = True


class Overloaded(ServiceError):
    """The queue, or another budget, is full."""

    status = 429
    code = "overloaded"
    retry_after_s = 1


class NotReady(ServiceError):
    """The service is starting, stopping, or has no rows yet."""

    status = 503
    code = "not_ready"
    retry_after_s = 1
    # Closing lets the client reconnect to an instance that is ready.
    closes = True


class EventsUnavailable(ServiceError):
    """Events cannot be stored, or the rows that states start from cannot be read. Sending the batch again is safe:
    either none of it was counted, or its repetition counts as duplicates."""

    status = 503
    code = "events_unavailable"
    retry_after_s = 1


class DeadlineExceeded(ServiceError):
    """The deadline passed, or too little of it is left for a model run."""

    status = 504
    code = "deadline_exceeded"


class ModelError(ServiceError):
    """The model returned something that is not a score."""

    code = "model_error"


class ErrorDetail(BaseModel):
    """What is wrong, and where."""

    code: str = Field(description="Machine-readable code from a closed set.")
    message: str = Field(description="Human-readable explanation.")
    field: str | None = Field(description="Dotted path of the part of the request at fault.")


class ErrorReply(BaseModel):
    """The body of every reply that is not a success."""

    error: ErrorDetail


class ErrorResponse:
    """`is_oip`: in the form of the Open Inference Protocol, which has one text, and status 400 for any invalid
    request."""

    __slots__ = ("body", "code", "headers", "status")

    def __init__(self, error: Exception, is_oip: bool = False) -> None:
        self.headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        field: str | None = None
        if isinstance(error, ServiceError):
            self.status, self.code, message, field = error.status, error.code, error.message, error.field
            self.headers += error.headers
            if error.retry_after_s is not None:
                self.headers.append((b"retry-after", b"%d" % error.retry_after_s))
            if error.closes:
                self.headers.append((b"connection", b"close"))
        elif isinstance(error, RequestError):
            self.status, self.code = _REQUEST_STATUS[error.code], error.code
            message, field = error.message, error.field
        elif isinstance(error, HTTPException):
            self.status, self.code = error.status_code, HTTPStatus(error.status_code).name.lower()
            message = str(error.detail)
            self.headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        else:
            self.status, self.code = 500, ServiceError.code
            message = "internal error; the service's log has the reason under this reply's x-request-id"
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            message = without_places(message)
        message, field = _printable(message), field and _printable(field)
        if is_oip:
            self.status = 400 if self.status == HTTPStatus.UNPROCESSABLE_ENTITY else self.status
            document: dict[str, object] = {"error": f"{field}: {message}" if field else message}
        else:
            document = {"error": {"code": self.code, "message": message, "field": field}}
        self.body = orjson.dumps(document)
        self.headers.append((b"content-length", b"%d" % len(self.body)))


def without_places(text: str) -> str:
    """Return the text without paths and addresses: those are for the log, because any client can read the reply."""
    return _PLACE.sub("…", text)


def _printable(text: str) -> str:
    """Return the text with lone surrogates escaped: JSON can contain them, UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class StoreError(MsdError):
    """The store is unreachable, damaged, or holds another bundle's rows; the message says which and where.

    `rows` are those available all the same, in the requested order, others as missing; None if there are none.
    """

    def __init__(self, message: str, rows: Rows | None = None) -> None:
        super().__init__(message)
        self.rows = rows
