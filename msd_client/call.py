"""The calls of either client as generators of steps, which wait for nothing themselves; the clients execute the steps.

A generator is sent the result of each step, or the step's error is thrown into it.
"""

import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from msd_client.errors import (
    BadReply,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    InvalidSettings,
    MsdClientError,
    error_class,
)
from msd_client.options import Retry, base_url, headers, limits, tls
from msd_client.replies import loaded

DEADLINE = "x-deadline-ms"
_LONGEST_S = 86_400.0
_LEAST_S = 0.001
_MAX_DIGITS = 9
_SHOWN = 120
# The service replaces longer request IDs.
_MAX_HEADER_CHARS = 128
_LOG = logging.getLogger("msd_client")
T = TypeVar("T")


class Send(NamedTuple):
    """A request to send after `wait_s`, and the deadline of its reply, by `time.monotonic`."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    until: float
    wait_s: float = 0.0


Steps = Generator[Send, httpx.Response, T]
Read = Callable[[Mapping[str, Any]], T]


class Calls(ABC):
    """Settings of a client, and its calls as steps."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline_s: float = 1.0,
        retry: Retry | None = None,
        max_connections: int = 100,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
    ) -> None:
        """Raises InvalidSettings. `deadline_s`: default of calls. `ca_file` replaces the system's authorities;
        `cert_file` and `key_file` are the client certificate for mutual TLS."""
        self._url, self._deadline_s, self._retry = url, deadline_s, retry or Retry()
        self._most_ms = float("inf")  # the service's maximum deadline, once it is known
        self._until(None)
        self._connect(base_url(url), headers(api_key), tls(ca_file, cert_file, key_file), limits(max_connections))

    @abstractmethod
    def _connect(self, url: httpx.URL, headers: dict[str, str], tls: ssl.SSLContext, limits: httpx.Limits) -> None:
        """Create the pool of connections."""

    def _until(self, deadline_s: float | None) -> float:
        """Return the deadline of a call that begins now."""
        seconds = self._deadline_s if deadline_s is None else deadline_s
        if not 0 < seconds <= _LONGEST_S:
            raise InvalidSettings(f"invalid deadline {seconds} s: must be above 0 and at most a day")
        return time.monotonic() + seconds

    def _get(self, path: str, read: Read[T], deadline_s: float | None, good: Sequence[int] = (200,)) -> Steps[T]:
        """`good`: statuses of replies to read."""
        return self._steps(Send("GET", path, {}, b"", self._until(deadline_s)), read, good)

    def _post(
        self,
        path: str,
        body: bytes,
        read: Read[T],
        deadline_s: float | None,
        traceparent: str | None,
        request_id: str | None = None,
    ) -> Steps[T]:
        given = _checked({"x-request-id": request_id, "traceparent": traceparent})
        request = Send("POST", path, {"content-type": "application/json", **given}, body, self._until(deadline_s))
        return self._steps(request, read, (200, 202))

    def _steps(self, request: Send, read: Read[T], good: Sequence[int]) -> Steps[T]:
        attempt, is_lowered = 0, False
        failed: MsdClientError | None = None
        while True:
            left_s = request.until - time.monotonic()
            if left_s - request.wait_s < _LEAST_S:
                raise failed or DeadlineExceeded("deadline exceeded before the request was sent")
            granted_ms = int(min(1000 * (left_s - request.wait_s), self._most_ms))
            attempt += 1
            try:
                reply = yield request._replace(headers={**request.headers, DEADLINE: str(granted_ms)})
            except (TimeoutError, httpx.TimeoutException) as error:
                raise DeadlineExceeded("no reply before the deadline") from error
            except httpx.TransportError as error:
                failed = ConnectionFailed(f"{self._url}: {error or type(error).__name__}")
                failed.__cause__ = error
            except httpx.DecodingError as error:
                raise BadReply(f"the reply is not of its Content-Encoding: {error}") from error
            else:
                if reply.status_code in good:
                    return read(loaded(reply.content))
                if reply.status_code == 400 and not is_lowered and self._learn(reply.headers, granted_ms):
                    # This is an answer, not a failure.
                    attempt, is_lowered, request = attempt - 1, True, request._replace(wait_s=0.0)
                    continue
                failed = error_of(reply)
            wait_s = self._retry.wait_s(failed, attempt)
            if wait_s is None:
                raise failed
            request = request._replace(wait_s=wait_s)

    def _learn(self, headers: Mapping[str, str], asked_ms: int) -> bool:
        """Return whether a refusal's headers grant less than requested; the log reports a new maximum."""
        told = headers.get(DEADLINE, "")
        if not (told.isascii() and told.isdigit() and len(told) <= _MAX_DIGITS and 0 < int(told) < asked_ms):
            return False
        if int(told) < self._most_ms:
            self._most_ms = int(told)
            _LOG.warning("the service lets a request take %s ms at most, so it is asked for no more from now on", told)
        return True


def error_of(reply: httpx.Response) -> MsdClientError:
    """Return the error of a refusal."""
    status, headers = reply.status_code, reply.headers
    about = {"status": status, "request_id": headers.get("x-request-id"), "retry_after_s": _retry_after_s(headers)}
    try:
        detail = loaded(reply.content).get("error")
    except BadReply:
        detail = None
    if not isinstance(detail, dict):
        # A proxy answers in its own format.
        return error_class(status)(f"HTTP {status}: {reply.content[:_SHOWN]!r}", **about)
    message, code, place = detail.get("message"), detail.get("code"), detail.get("field")
    return error_class(status)(str(message), code=code, field=place, **about)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return Retry-After in seconds, also from a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _checked(headers: Mapping[str, str | None]) -> dict[str, str]:
    """Return the given headers. Raises InvalidRequest for invalid values."""
    given = {name: value for name, value in headers.items() if value is not None}
    for name, value in given.items():
        if not (value.isascii() and value.isprintable() and 0 < len(value) <= _MAX_HEADER_CHARS):
            raise InvalidRequest(f"has to be 1 to {_MAX_HEADER_CHARS} printable ASCII characters", field=name)
    return given
