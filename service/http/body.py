"""The body of a request, bounded in size and time, and what its head says of it.

Does not know what requests are for.
"""

import asyncio
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import limits
from service.errors import BodyTimeout, BodyTooLarge, ClientGone, MalformedHeader, UnsupportedMediaType
from service.http.access import CYCLE, is_scoring
from service.http.bridge import RequestCycle
from service.settings import Settings

FIELD = "X-Deadline-Ms"
_DEADLINE = FIELD.lower().encode()
_MAX_DIGITS = 9


class BodyMiddleware:
    """Starts the app's routes when the whole body has arrived, within its bounds, whether they read it or not; but for
    scoring, whose heads are judged first. HEAD is answered as GET; the server omits the body."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if scope["type"] != "http" or is_scoring(scope["path"]):
            await self._app(scope, receive, send)
            return
        unread = [await read_body(scope, receive, self._settings)]

        async def receive_read() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        await self._app(scope, receive_read, send)


async def read_json_body(scope: Scope, receive: Receive) -> bytes:
    """Return the body, which has arrived. Raises UnsupportedMediaType."""
    check_json(scope)
    body: bytes = (await receive())["body"]
    return body


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """Return the whole body, within the limits of bytes and time. Raises BodyTooLarge, BodyTimeout, ClientGone."""
    limit, timeout_s = settings.max_body_bytes, limits.BODY_TIMEOUT_S
    too_large = BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")
    cycle: RequestCycle = scope[CYCLE]
    if not cycle.is_whole and _declared_bytes(scope) > limit:
        raise too_large
    try:
        if cycle.is_late:
            raise TimeoutError
        # A timer costs more than everything else here, and nearly every body arrives whole with its head.
        async with nullcontext() if cycle.is_whole else asyncio.timeout(timeout_s):
            message = await receive()
    except TimeoutError:
        raise BodyTimeout(f"incomplete body after {timeout_s:g} s") from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message["body"]  # the whole one, or more than the limit
    if len(body) > limit:
        raise too_large
    return body


def check_encoding(scope: Scope, instead: str = "plain JSON") -> None:
    """Raise UnsupportedMediaType if the headers declare a compressed body. `instead`: what is to be sent."""
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedMediaType(f"compressed bodies are not supported; send {instead}")


def check_json(scope: Scope, *others: bytes) -> None:
    """Raise UnsupportedMediaType unless the headers declare JSON or another of these types. A web page may post only
    other types to any origin."""
    check_encoding(scope)
    media_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.split(b";")[0].strip().lower()
    if media_type not in (b"application/json", *others):
        shown = media_type[:60].decode("latin-1") or "missing"
        raise UnsupportedMediaType(f"invalid content type {shown!r}; expected 'application/json'")


def check_deadline(scope: Scope) -> None:
    """Raise MalformedHeader if the head sets no possible deadline."""
    granted = [value for name, value in scope["headers"] if name == _DEADLINE]
    if len(granted) > 1:
        raise MalformedHeader("is given twice", FIELD)
    most = limits.MAX_DEADLINE_MS
    for value in granted:
        digits = value.strip()
        if digits.isdigit() and len(digits) <= _MAX_DIGITS and 1 <= int(digits) <= most:
            continue
        shown = value[:40].decode("latin-1")
        refused = MalformedHeader(f"{shown!r} is not a whole number of milliseconds from 1 to {most}", FIELD)
        # For clients that want the maximum.
        refused.headers = ((_DEADLINE, b"%d" % most),)
        raise refused


def _declared_bytes(scope: Scope) -> int:
    # The parser has checked that the length is one number.
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
