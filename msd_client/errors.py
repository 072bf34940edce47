"""The errors of the client, in one tree:

MsdClientError
├── InvalidSettings    the client cannot be made like this
├── InvalidRequest     what was asked is wrong (4xx, or found here before anything was sent)
├── AccessDenied       no key, or none for this (401, 403)
├── Overloaded         too much to do just now (429)
├── Unavailable        starting, stopping, or cut off from what it needs (503)
├── ServiceFailed      the service failed (other 5xx)
├── DeadlineExceeded   the time was over, here or there (504)
├── ConnectionFailed   there was no connection, or it broke
└── BadReply           what came is no reply of this service
"""

from typing import ClassVar


class MsdClientError(Exception):
    """`code` is for programs; `field` the path of the part of the request at fault; `status` HTTP's, where there was a
    reply; `request_id` what the service's log knows the request by."""

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
    """An address, file or number that a client cannot be made of."""

    default_code = "invalid_settings"


class InvalidRequest(MsdClientError):
    """It would be refused again: it is to be mended."""

    default_code = "invalid"


class AccessDenied(MsdClientError):
    """The key is missing, unknown, at its end, or for other things."""

    default_code = "unauthorized"


class Overloaded(MsdClientError):
    """Nothing is wrong with the request; `retry_after_s` says when to ask again."""

    default_code = "overloaded"


class Unavailable(MsdClientError):
    """As `Overloaded`."""

    default_code = "not_ready"


class ServiceFailed(MsdClientError):
    """The service's log has the reason, under `request_id`."""

    default_code = "internal"


class DeadlineExceeded(MsdClientError):
    """No scores in the time that there was."""

    default_code = "deadline_exceeded"


class ConnectionFailed(MsdClientError):
    """Refused, reset, or ended in the middle of a reply."""

    default_code = "connection_failed"


class BadReply(MsdClientError):
    """Perhaps something else answers at this address."""

    default_code = "bad_reply"


_BY_STATUS: dict[int, type[MsdClientError]] = {
    401: AccessDenied,
    403: AccessDenied,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_class(status: int) -> type[MsdClientError]:
    """What a reply of this status is raised as."""
    if status < 400:
        return BadReply
    return _BY_STATUS.get(status, InvalidRequest if status < 500 else ServiceFailed)
