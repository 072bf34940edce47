"""What routes ask of a request: its body, within bounds of type, size and time; and how long the request may take.

Does not know what the body says, nor what draws on the time.
"""

import asyncio
from collections.abc import Iterable
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTimeout, BodyTooLarge, ClientGone, MalformedHeader, UnsupportedMediaType
from service.http.exchange import is_whole
from service.settings import Settings

FIELD = "X-Deadline-Ms"
_DEADLINE = FIELD.lower().encode()
_MAX_DIGITS = 9


class BodyMiddleware:
    """Has the app's routes begin when the body has come, within its bounds, whether they read it or not; and HEAD
    answered as GET, of whose reply the server leaves out the body."""

    def __init__(self, app: ASGIApp, limit: int, timeout_s: float) -> None:
        self._app, self._limit, self._timeout_s = app, limit, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or raises what is wrong with its body."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if scope["type"] != "http" or is_whole(scope):
            await self._app(scope, receive, send)
            return
        unread = [await read_body(scope, receive, self._limit, self._timeout_s)]

        async def receive_read() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        await self._app(scope, receive_read, send)


async def read_json_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """As `read_body`. Raises UnsupportedMediaType too."""
    check_json(scope)
    return await read_body(scope, receive, limit, timeout_s)


async def read_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body, of at most `limit` bytes. Raises BodyTooLarge, BodyTimeout, ClientGone."""
    too_large = BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")
    if (whole := is_whole(scope)) is False and _declared_bytes(scope) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        # A timer costs more than all else here, and all but every body has come whole with its head.
        async with nullcontext() if whole else asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(message.get("body", b""))
                more = message.get("more_body", False)
                size += len(chunks[-1])
                if size > limit:
                    raise too_large
    except TimeoutError:
        raise BodyTimeout(f"incomplete body after {timeout_s:g} s: received {size} bytes") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _declared_bytes(scope: Scope) -> int:
    # The parser has seen to it that the length is a number, and one alone.
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def check_json(scope: Scope) -> None:
    """Raises UnsupportedMediaType where the headers say that the body is no plain JSON."""
    media_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.split(b";")[0].strip().lower()
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedMediaType("compressed bodies are not supported; send plain JSON")
    if media_type != b"application/json":
        shown = media_type[:60].decode("latin-1") or "missing"
        raise UnsupportedMediaType(f"invalid content type {shown!r}; expected 'application/json'")


class Deadlines:
    """The deadlines of requests, as times of `time.perf_counter`."""

    __slots__ = ("_default_s", "_most_ms")

    def __init__(self, settings: Settings) -> None:
        self._default_s = settings.deadline_ms / 1000
        self._most_ms = settings.max_deadline_ms

    def of(self, headers: Iterable[tuple[bytes, bytes]], began: float, otherwise_s: float | None = None) -> float:
        """When a request with these, that began then, has to be answered. Raises MalformedHeader.

        `otherwise_s`: what its caller grants where the header does not say.
        """
        granted: bytes | None = None
        for name, value in headers:
            if name == _DEADLINE:
                if granted is not None:
                    raise MalformedHeader("is given twice", FIELD)
                granted = value
        if granted is not None:
            return began + self._seconds(granted)
        return began + (self._default_s if otherwise_s is None else otherwise_s)

    def _seconds(self, granted: bytes) -> float:
        digits = granted.strip()
        if digits.isdigit() and len(digits) <= _MAX_DIGITS and 1 <= int(digits) <= self._most_ms:
            return int(digits) / 1000
        shown = granted[:40].decode("latin-1")
        refused = MalformedHeader(f"{shown!r} is not a whole number of milliseconds from 1 to {self._most_ms}", FIELD)
        # For programs that would rather ask for as much as there is.
        refused.headers = ((_DEADLINE, b"%d" % self._most_ms),)
        raise refused
