"""One call as a generator of steps, without waiting itself; the blocking and the asynchronous client execute the steps.

It is sent the result of each step, or the step's error is thrown into it.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar

from msd_client.ceiling import DEADLINE, Ceiling
from msd_client.errors import BadReply, DeadlineExceeded, InvalidRequest, MsdClientError, error_class
from msd_client.replies import (
    EventsReply,
    Model,
    OpenrtbReply,
    Ready,
    ScoreReply,
    loaded,
    read_events,
    read_model,
    read_openrtb,
    read_ready,
    read_score,
)
from msd_client.requests import Event, OpenrtbRequest, ScoreRequest, events_body
from msd_client.retry import Retry

_LEAST_S = 0.001
_SHOWN = 120
# The service replaces longer request IDs.
_MAX_HEADER_CHARS = 128
T = TypeVar("T")


class Send(NamedTuple):
    """A request to send, and the deadline of its reply, by `time.monotonic`."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    until: float


class Pause(NamedTuple):
    """Seconds to wait."""

    seconds: float


class Received(NamedTuple):
    """A reply, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Steps = Generator[Send | Pause, Received | None, T]


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A request, and the statuses of valid replies."""

    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    good: tuple[int, ...] = (200,)


def score(
    request: ScoreRequest, about: Mapping[str, str | None], until: float, retry: Retry, ceiling: Ceiling
) -> Steps[ScoreReply]:
    """Score. `about`: headers of this request."""
    return _call(_json("/v1/score", request.body(), about), read_score, until, retry, ceiling)


def openrtb(
    request: OpenrtbRequest, about: Mapping[str, str | None], until: float, retry: Retry, ceiling: Ceiling
) -> Steps[OpenrtbReply]:
    """Score a BidRequest's impressions."""
    return _call(_json("/v1/openrtb", request.body(), about), read_openrtb, until, retry, ceiling)


def events(told: list[Event], about: Mapping[str, str | None], until: float, retry: Retry) -> Steps[EventsReply]:
    """Send events; all are accepted or none."""
    asked = replace(_json("/v1/events", events_body(told), about), good=(202,))
    return _call(asked, read_events, until, retry)


def ready(until: float, retry: Retry) -> Steps[Ready]:
    """Ask for readiness; "not ready" is a valid answer."""
    return _call(ClientRequest("GET", "/health/ready", good=(200, 503)), read_ready, until, retry)


def model(until: float, retry: Retry) -> Steps[Model]:
    """Ask what is served."""
    return _call(ClientRequest("GET", "/v1/model"), read_model, until, retry)


def _json(path: str, body: bytes, about: Mapping[str, str | None]) -> ClientRequest:
    return ClientRequest("POST", path, body, {"content-type": "application/json", **_checked(about)})


def _call(
    asked: ClientRequest, read: Callable[[bytes], T], until: float, retry: Retry, ceiling: Ceiling | None = None
) -> Steps[T]:
    attempt, failed = 0, None
    ceiling = ceiling or Ceiling()
    is_lowered = False
    while True:
        left_s = until - time.monotonic()
        if left_s < _LEAST_S:
            raise DeadlineExceeded("deadline exceeded before the request was sent") from failed
        granted_ms = ceiling.lowered(int(left_s * 1000))
        headers = {**asked.headers, DEADLINE: str(granted_ms)}
        attempt += 1
        try:
            received = yield Send(asked.method, asked.path, headers, asked.content, until)
            assert received is not None, "what is sent has a reply"
            if received.status in asked.good:
                return read(received.body)
            if received.status == 400 and not is_lowered and ceiling.learn(received.headers, granted_ms):
                # This is an answer, not a failure.
                attempt, is_lowered = attempt - 1, True
                continue
            error = error_of(received)
        except MsdClientError as raised:
            error = raised
        wait_s = retry.wait_s(error, attempt)
        if wait_s is None or time.monotonic() + wait_s > until - _LEAST_S:
            raise error
        failed = error
        yield Pause(wait_s)


def error_of(received: Received) -> MsdClientError:
    """Return the error of a refusal."""
    status, headers = received.status, received.headers
    about = {"status": status, "request_id": headers.get("x-request-id"), "retry_after_s": _retry_after_s(headers)}
    try:
        detail = loaded(received.body).get("error")
    except BadReply:
        detail = None
    if not isinstance(detail, dict):
        # A proxy answers in its own format.
        return error_class(status)(f"HTTP {status}: {received.body[:_SHOWN]!r}", **about)  # type: ignore[arg-type]
    message, code, place = detail.get("message"), detail.get("code"), detail.get("field")
    return error_class(status)(str(message), code=code, field=place, **about)  # type: ignore[arg-type]


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return Retry-After in seconds, also from a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _checked(headers: Mapping[str, str | None]) -> dict[str, str]:
    """Return the given headers. Raises InvalidRequest for invalid values."""
    given = {name: value for name, value in headers.items() if value is not None}
    for name, value in given.items():
        if not (value.isascii() and value.isprintable() and 0 < len(value) <= _MAX_HEADER_CHARS):
            raise InvalidRequest(f"has to be 1 to {_MAX_HEADER_CHARS} printable ASCII characters", field=name)
    return given
