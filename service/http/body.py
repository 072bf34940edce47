"""Reads one request's body from the ASGI channel: its declared type, its size and its time are bounded.

Does not know what the body says.
"""

import asyncio
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyEndless, BodyTimeout, BodyTooLarge, ClientGone, UnsupportedMediaType
from service.http.protocol import is_whole

# A body that is too large is read on and thrown away up to so many times the limit, because a client that is
# still writing when the connection closes never sees the reply that says why.
_DISCARDED_LIMITS = 8


class BodyMiddleware:
    """Has the app's routes begin when the body has come, within its bounds, whether they read it or not."""

    def __init__(self, app: ASGIApp, limit: int, timeout_s: float) -> None:
        self._app, self._limit, self._timeout_s = app, limit, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or raises what is wrong with its body."""
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
    body = await read_body(scope, receive, limit, timeout_s)
    check_json(scope)
    return body


async def read_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body, of at most `limit` bytes. Raises BodyTooLarge, BodyTimeout, ClientGone."""
    chunks: list[bytes] = []
    size = 0
    try:
        # A timer costs more than all else here, and all but every body has come whole with its head.
        async with nullcontext() if is_whole(scope) else asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunk = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(chunk)
                if size <= limit:
                    chunks.append(chunk)
                elif size > _DISCARDED_LIMITS * limit:
                    raise BodyEndless(f"the body is larger than {limit} bytes, and still not at its end")
    except TimeoutError:
        if size > limit:
            raise BodyEndless(f"the body is larger than {limit} bytes, and still not at its end") from None
        raise BodyTimeout(f"the body did not end within {timeout_s:g} s; {size} bytes came") from None
    if size > limit:
        raise BodyTooLarge(f"the body has {size} bytes; {limit} are the limit")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def discard_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bool:
    """Throws a body away; whether its end came, within a multiple of `limit` and the time. Raises ClientGone."""
    if is_whole(scope):
        return True
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while size <= _DISCARDED_LIMITS * limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                if not message.get("more_body", False):
                    return True
                size += len(message.get("body", b""))
    except TimeoutError:
        return False
    return False


def check_json(scope: Scope) -> None:
    """Raises UnsupportedMediaType where the headers say that the body is no plain JSON."""
    media_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value.split(b";")[0].strip().lower()
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedMediaType("compressed bodies are not read; send the JSON as it is")
    if media_type != b"application/json":
        shown = media_type[:60].decode("latin-1") or "missing"
        raise UnsupportedMediaType(f"the content type is {shown!r}; it has to be 'application/json'")
