"""Middleware around the app's routes: an ID, an answer to any error and one log line for every request; and its body,
bounded in size and time.

Pure ASGI. Does not know what the routes do.
"""

import asyncio
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import limits
from service.errors import BodyTimeout, BodyTooLarge, ClientGone
from service.http.exchange import AccessLog, Headers, access_of, check_json, cycle_of
from service.settings import Settings


class AccessMiddleware:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access = access_of(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), access.reply_begins(message["status"])]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            is_begun = bool(access.status)
            response = self._log.failed(scope, error)
            if response is None:
                return
            if is_begun:
                raise
            await send_reply(send_with_id, response.status, response.headers, response.body)
        finally:
            self._log.finish(scope)


class BodyMiddleware:
    """Starts the app's routes when the whole body has arrived, within its bounds, whether they read it or not. HEAD is
    answered as GET; the server omits the body."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if scope["type"] != "http" or _is_whole(scope):
            await self._app(scope, receive, send)
            return
        unread = [await read_body(scope, receive, self._settings)]

        async def receive_read() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            return await receive()

        await self._app(scope, receive_read, send)


async def read_json_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """As `read_body`. Raises UnsupportedMediaType too."""
    check_json(scope)
    return await read_body(scope, receive, settings)


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """Return the whole body, within the limits of bytes and time. Raises BodyTooLarge, BodyTimeout, ClientGone."""
    limit, timeout_s = settings.max_body_bytes, limits.BODY_TIMEOUT_S
    too_large = BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")
    if (whole := _is_whole(scope)) is False and _declared_bytes(scope) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        # A timer costs more than everything else here, and nearly every body arrives whole with its head.
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
        raise BodyTimeout(f"incomplete body after {timeout_s:g} s") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send_reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, body: bytes, more: Headers | None = None) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(more or ())]
    await send_reply(send, status, headers, body)


def _declared_bytes(scope: Scope) -> int:
    # The parser has checked that the length is one number.
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _is_whole(scope: Scope) -> bool:
    """Return whether the whole body has arrived already."""
    cycle = cycle_of(scope)
    return cycle is not None and cycle.is_whole
