"""Middleware around the app's routes: an ID, an answer to any error and one log line for every request; and its body,
bounded in size and time.

Pure ASGI. Does not know what the routes do.
"""

import asyncio
import time
from contextlib import nullcontext

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from msd.contract.request import RequestError
from service import limits
from service.errors import BodyTimeout, BodyTooLarge, ClientGone, ServiceError
from service.http.exchange import KEY, Access, Headers, access_of, check_json, cycle_of, error_response
from service.settings import Settings
from service.telemetry.metrics import Metrics

_EVENTS = "/v1/events"
_CLIENT_GONE = 499
# These are logged once by the service, not for each request: not ready, keys refused, overload.
_NO_NEWS = (401, 403, 429, _CLIENT_GONE, 503, 504)
_SHOWN_PATH = 200


class AccessMiddleware:
    """The outermost layer. It counts requests, and logs those that failed."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._log = structlog.get_logger("msd.access")

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
        except ClientGone:
            access.status = _CLIENT_GONE
        except Exception as error:
            is_begun = bool(access.status)
            if not isinstance(error, ServiceError | RequestError | HTTPException):
                self._log.error("internal_error", request_id=access.request_id, exc_info=error)
            response = error_response(error, scope["path"])
            access.error = response.code
            if is_begun:
                raise
            await send_reply(send_with_id, response.status, response.headers, response.body)
        finally:
            self._finish(scope, access)

    def _finish(self, scope: Scope, access: Access) -> None:
        seconds = (access.ended or time.perf_counter()) - access.started
        if access.is_scoring:
            self._metrics.request(access.status or 500, seconds)
        elif scope["path"] == _EVENTS and scope["method"] == "POST":
            self._metrics.event_request(access.status or 500, seconds)
        if access.status >= 400 and access.status not in _NO_NEWS:
            more = {"key": scope.get(KEY), "error": access.error}
            self._log.info(
                "request",
                request_id=access.request_id,
                method=scope["method"],
                path=scope["path"][:_SHOWN_PATH],
                status=access.status,
                ms=round(seconds * 1000, 3),
                **{name: value for name, value in more.items() if value is not None},
            )


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
