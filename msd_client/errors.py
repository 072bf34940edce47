"""Errors of the client, in one tree."""

from typing import ClassVar


class MsdClientError(Exception):
    """`code` is for programs; `field` is the path of the part of the request at fault; `status` that of the reply, if
    there was one; `request_id` the request's ID in the service's log."""

    default_code: ClassVar[str] = "client_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.code = code or self.default_code
        self.field = field
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class InvalidSettings(MsdClientError):
    """An address, file or number is invalid."""

    default_code = "invalid_settings"


class InvalidRequest(MsdClientError):
    """The request is invalid and would be rejected again."""

    default_code = "invalid"


class AccessDenied(MsdClientError):
    """The API key is missing, unknown, expired or lacks the scope."""

    default_code = "unauthorized"


class Overloaded(MsdClientError):
    """The service is overloaded; `retry_after_s` says when to retry."""

    default_code = "overloaded"


class Unavailable(MsdClientError):
    """The service is unavailable; `retry_after_s` says when to retry."""

    default_code = "not_ready"


class ServiceFailed(MsdClientError):
    """The service's log has the reason, under `request_id`."""

    default_code = "internal"


class DeadlineExceeded(MsdClientError):
    """The deadline passed."""

    default_code = "deadline_exceeded"


class ConnectionFailed(MsdClientError):
    """The connection was refused, reset, or closed within the reply."""

    default_code = "connection_failed"


class BadReply(MsdClientError):
    """The reply is not one of this service."""

    default_code = "bad_reply"


_BY_STATUS: dict[int, type[MsdClientError]] = {
    401: AccessDenied,
    403: AccessDenied,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_class(status: int) -> type[MsdClientError]:
    """Return the error class of a status."""
    if status < 400:
        return BadReply
    return _BY_STATUS.get(status, InvalidRequest if status < 500 else ServiceFailed)
