"""One connection to a Redis server, from its beginning to its end: commands go out without waiting for one another,
replies come back in their order, and between them, in that same order, word of the keys that somebody changed.

Because of this order a row that was read here is known to be what Redis holds for as long as no word of it has come,
and the connection answers. Knows the protocol (RESP3, client tracking). Does not know what keys and values mean.
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError

from service.errors import StoreError

Accept = Callable[[list[Any]], Any]
"""Called with the replies to what was asked, some of which may be a `hiredis.ReplyError`."""
Invalid = Callable[[Sequence[bytes] | None], None]
"""Called with the keys that changed, or None when all may have."""


class Ended(ConnectionError):
    """The connection ended before a reply came; the message says why."""


@dataclass(slots=True)
class _Asked:
    at: float
    count: int
    accept: Accept
    answered: "asyncio.Future[Any]"
    replies: list[Any] = field(default_factory=list)


class Line(asyncio.Protocol):
    """A connection that has been greeted. `limit_s`: a reply that takes longer is late."""

    def __init__(self, invalid: Invalid, limit_s: float) -> None:
        self._invalid = invalid
        self._limit_s = limit_s
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._asked: deque[_Asked] = deque()
        self._again: list[Sequence[bytes] | None] = []
        self._was_late = False
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.proved_at = 0.0
        """When, of `time.perf_counter`, all words of change that there were are known to have come."""
        self.is_master = True
        """Whether the server said so when it was greeted."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked that was not answered."""
        return not self._asked

    @property
    def is_late(self) -> bool:
        """Whether the last reply came too late, or the next one does; then there is nothing to wait for here."""
        return self._was_late or self.silent_for() > self._limit_s

    def silent_for(self) -> float:
        """Since when a reply is waited for, in seconds."""
        return time.perf_counter() - self._asked[0].at if self._asked else 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if (own := transport.get_extra_info("socket")) is not None and own.family != socket.AF_UNIX:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, commands: bytes, count: int, accept: Accept) -> "asyncio.Future[Any]":
        """What `accept` will have made of the replies to `count` commands."""
        asked = _Asked(time.perf_counter(), count, accept, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        self._transport.write(commands)
        return asked.answered

    def ping(self) -> None:
        """Asks for a sign of life."""
        self.send(_PING, 1, lambda replies: None)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not Ellipsis:
                if isinstance(reply, hiredis.PushNotification):
                    self._hear(reply)
                else:
                    self._answer(reply)
        except hiredis.ProtocolError as error:
            self.end(f"does not speak Redis's protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"{type(exc).__name__}: {exc}" if exc else "the connection was closed")

    def end(self, reason: str) -> None:
        """Ends the connection, if it has not ended; whoever waits for a reply hears why."""
        self._transport.abort()
        while self._asked:
            _fail(self._asked.popleft().answered, Ended(reason))
        if not self.ended.done():
            self.ended.set_result(reason)

    def _hear(self, push: Sequence[Any]) -> None:
        if push[0] == b"invalidate":
            self._invalid(push[1])
            if self._asked and self._asked[0].replies:
                # Between two replies of one question, the first of which is not accepted yet.
                self._again.append(push[1])

    def _answer(self, reply: object) -> None:
        if not self._asked:
            raise hiredis.ProtocolError("a reply that nobody asked for")
        asked = self._asked[0]
        asked.replies.append(reply)
        if len(asked.replies) < asked.count:
            return
        self._asked.popleft()
        # All that changed before the command was answered has been heard of by now.
        self.proved_at = asked.at
        self._was_late = time.perf_counter() - asked.at > self._limit_s
        try:
            outcome = asked.accept(asked.replies)
        except StoreError as error:
            _fail(asked.answered, error)
        else:
            if not asked.answered.done():
                asked.answered.set_result(outcome)
        for keys in self._again:
            self._invalid(keys)
        self._again.clear()
        if self._was_late and not self._asked:
            self.ping()


def _fail(reply: "asyncio.Future[Any]", error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
        reply.exception()  # looked at, for there may be nobody who waits for it


def pack(*parts: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


_PING = pack(b"PING")


class Target:
    """Where a URL of one server leads, by which credentials, and how a connection there is greeted.

    `prefixes`: of the keys to hear of when they change; none for a server that cannot tell. StoreError for an option
    that cannot be.
    """

    def __init__(self, url: str, prefixes: Sequence[bytes] = ()) -> None:
        try:
            read = ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
        except (TypeError, ValueError) as error:
            raise StoreError(f"the Redis URL has an option that cannot be: {error}") from error
        self._read = cast(AbstractConnection, read)
        self._greeting = _greeting(self._read, prefixes)

    async def connect(self, limit_s: float, invalid: Invalid) -> Line:
        """A connection that has been greeted. Raises StoreError where it is refused, else what the network raises."""
        loop, read = asyncio.get_running_loop(), self._read
        context = _tls(read)
        made: tuple[asyncio.Transport, Line]
        if isinstance(read, UnixDomainSocketConnection):
            made = await loop.create_unix_connection(lambda: Line(invalid, limit_s), read.path)
        else:
            made = await loop.create_connection(
                lambda: Line(invalid, limit_s),
                read.host,
                read.port,  # type: ignore[attr-defined]
                ssl=context,
            )
        transport, line = made
        try:
            for command in self._greeting:
                (reply,) = await line.send(pack(*command), 1, lambda replies: replies)
                if isinstance(reply, hiredis.ReplyError):
                    raise StoreError(_explain(command, reply)) from reply
                if isinstance(reply, dict):
                    line.is_master = reply.get(b"role", b"master") == b"master"
        except BaseException:
            transport.abort()
            raise
        return line


def _tls(read: AbstractConnection) -> ssl.SSLContext | None:
    """What the URL's options say of TLS, from files as they are now."""
    if not isinstance(read, SSLConnection):
        return None
    try:
        return read.ssl_context.get()
    except (OSError, RedisError) as error:
        files = [read.ssl_context.ca_certs, read.ssl_context.certfile, read.ssl_context.keyfile]
        named = ", ".join(str(one) for one in files if one)
        raise StoreError(
            f"TLS cannot be set up ({error}): look at {named or 'the ssl_… options of the URL'}"
        ) from error


def _greeting(target: AbstractConnection, prefixes: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    hello = [b"HELLO", b"3"]
    if target.password is not None:
        hello += [b"AUTH", str(target.username or "default").encode(), str(target.password).encode()]
    commands = [tuple(hello)]
    if target.db:
        commands.append((b"SELECT", str(target.db).encode()))
    if prefixes:
        wanted = [part for prefix in prefixes for part in (b"PREFIX", prefix)]
        commands.append((b"CLIENT", b"TRACKING", b"ON", b"BCAST", *wanted))
    return commands


def _explain(command: Sequence[bytes], error: Exception) -> str:
    if command[0] == b"CLIENT":
        return (
            f"does not tell of changed rows ({error}): allow CLIENT TRACKING there, or set MSD_CACHE_MB=0 to read every"
            " row of every request from Redis"
        )
    if command[0] == b"HELLO" and "unknown command" in str(error).lower():
        return f"{error}; Redis 6 or Valkey 7.2 is the oldest that will do"
    return f"{error}"
