"""One connection to a Redis server: commands are pipelined, replies arrive in order, invalidations between them.

Because of this order a row that was read here equals what Redis holds until an invalidation names it, as long as the
connection answers. Knows the protocol (RESP3, client tracking). Does not know what keys and values mean, and trusts
the server with nothing: a reply that claims too much, or cannot be understood, ends the connection.
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
"""Called with the replies to the commands; some may be a `hiredis.ReplyError`."""
Invalid = Callable[[Sequence[bytes] | None], None]
"""Called with the keys that changed, or None if all may have."""

VALUES_AT_ONCE = 500
"""Values for which the event loop is held: with what is made of them, a millisecond."""
_MAX_ELEMENTS = 2**20
_MAX_BYTES = 2**26
_MAX_LINE = 2**16
_AGGREGATES = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2}
_VALUES = b"$=!"
_LINES = b"+-:_,#("


class Ended(ConnectionError):
    """The connection ended before a reply arrived; the message says why."""


class ReplyBounds:
    """Limits on one reply, checked before hiredis reads it, which allocates whatever a header claims.

    Within a reply at most 2^20 elements may be announced and outstanding; it may have 64 MiB.
    """

    def __init__(self) -> None:
        self._line = b""  # the start of a header whose end has not arrived
        self._skip = 0  # bytes of the current value that have not arrived
        self._due = 0  # elements that were announced and have not arrived
        self._size = 0  # bytes of the current reply

    def check(self, data: bytes) -> None:
        """Check the next bytes. Raises ValueError if a reply is over a limit or not RESP3."""
        self._size += len(data)
        if self._line:
            data, self._line = self._line + data, b""
        place, length, due = self._skip, len(data), self._due
        header, stride = b"\r\n", 0
        while place < length:
            # Most values are rows of one size, whose header need not be read again.
            while due > 1 and data.startswith(header, place):
                place += stride
                due -= 1
            if (end := data.find(b"\r\n", place, place + _MAX_LINE)) < 0:
                break
            header = data[place : end + 2]
            size, announced = _read_header(header)
            stride = len(header) + size
            place += stride
            due = announced + (due - 1 if due else 0)
            if due > _MAX_ELEMENTS:
                raise ValueError(f"a reply of {due} elements; the limit is {_MAX_ELEMENTS}")
            if announced:
                header, stride = b"\r\n", 0  # no reply header begins like this
            if not due:
                self._size = length - place  # negative while the last value is incomplete
        self._line, self._skip, self._due = data[place:], max(0, place - length), due
        if len(self._line) >= _MAX_LINE or self._size > _MAX_BYTES:
            raise ValueError(f"a line of more than {_MAX_LINE} bytes, or a reply of more than {_MAX_BYTES}")


def _read_header(header: bytes) -> tuple[int, int]:
    """Return the number of bytes between a header and the next one, and of elements that it announces."""
    kind = header[0]
    if kind in _VALUES:
        size = int(header[1:])
        if size > _MAX_BYTES:
            raise ValueError(f"a value of {size} bytes; the limit is {_MAX_BYTES}")
        return size + 2 if size >= 0 else 0, 0
    if kind in _AGGREGATES:
        return 0, _AGGREGATES[kind] * max(0, int(header[1:]))
    if kind in _LINES:
        return 0, 0
    raise ValueError(f"unknown reply type {header[:1]!r}")


@dataclass(slots=True)
class _Query:
    at: float
    count: int
    accept: Accept
    answered: "asyncio.Future[Any]"
    replies: list[Any] = field(default_factory=list)


class Line(asyncio.Protocol):
    """One connection. `limit_s`: a reply that takes longer is late."""

    def __init__(self, invalid: Invalid, limit_s: float) -> None:
        self._invalid = invalid
        self._limit_s = limit_s
        self._bounds = ReplyBounds()
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._queries: deque[_Query] = deque()
        self._again: list[Sequence[bytes] | None] = []
        self._was_late = False
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.proved_at = 0.0
        """All invalidations up to this time (of `time.perf_counter`) have arrived."""
        self.is_master = True
        """Whether the server said so in its greeting."""

    @property
    def is_idle(self) -> bool:
        return not self._queries

    @property
    def is_late(self) -> bool:
        """Return whether the last reply, or the next one, is late: then waiting is pointless."""
        return self._was_late or self.silent_for() > self._limit_s

    def silent_for(self) -> float:
        """Return the age of the oldest outstanding reply, in seconds. For any thread."""
        try:
            oldest = self._queries[0]
        except IndexError:
            return 0.0
        return time.perf_counter() - oldest.at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if (own := transport.get_extra_info("socket")) is not None and own.family != socket.AF_UNIX:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, commands: bytes, count: int, accept: Accept) -> "asyncio.Future[Any]":
        """Send `count` commands; return a future of what `accept` makes of the replies. Raises Ended if the connection
        has ended."""
        if self.ended.done():
            raise Ended(self.ended.result())
        query = _Query(time.perf_counter(), count, accept, asyncio.get_running_loop().create_future())
        self._queries.append(query)
        self._transport.write(commands)
        return query.answered

    def ping(self) -> None:
        self.send(_PING, 1, lambda replies: None)

    def data_received(self, data: bytes = b"") -> None:
        """Answer queries with what has arrived; after `VALUES_AT_ONCE` values, wait for the loop's next turn."""
        taken = 0
        try:
            self._bounds.check(data)
            self._reader.feed(data)
            while not self.ended.done() and (reply := self._reader.gets()) is not Ellipsis:
                if isinstance(reply, hiredis.PushNotification):
                    self._take_push(reply)
                else:
                    self._answer(reply)
                taken += len(reply) if isinstance(reply, list) else 1
                if taken >= VALUES_AT_ONCE:
                    self._transport.pause_reading()
                    asyncio.get_running_loop().call_soon(self.data_received)
                    return
            if not self.ended.done():
                self._transport.resume_reading()
        except Exception as error:  # hiredis raises errors of many types for a hostile server's bytes
            self.end(f"does not speak Redis's protocol: {type(error).__name__}: {error}"[:500])

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"{type(exc).__name__}: {exc}" if exc else "the connection was closed")

    def end(self, reason: str) -> None:
        """Close the connection, if it is open; waiters get the reason."""
        if not self.ended.done():
            self.ended.set_result(reason)
        self._transport.abort()
        while self._queries:
            _fail(self._queries.popleft().answered, Ended(reason))

    def _take_push(self, push: Sequence[Any]) -> None:
        if len(push) != 2 or push[0] != b"invalidate":
            return
        keys = None if push[1] is None else [key for key in push[1] if isinstance(key, bytes)]
        self._invalid(keys)
        if self._queries and self._queries[0].replies:
            # Between two replies to one query, before the first is accepted.
            self._again.append(keys)

    def _answer(self, reply: object) -> None:
        if not self._queries:
            raise ValueError("a reply to no command")
        query = self._queries[0]
        query.replies.append(reply)
        if len(query.replies) < query.count:
            return
        self._queries.popleft()
        # The server sends the invalidations of all earlier changes before the reply.
        self.proved_at = query.at
        self._was_late = time.perf_counter() - query.at > self._limit_s
        try:
            outcome = query.accept(query.replies)
        except StoreError as error:
            _fail(query.answered, error)
        except Exception as error:  # a reply of an unexpected shape
            _fail(query.answered, StoreError(f"an unexpected reply: {type(error).__name__}: {error}"[:500]))
        else:
            if not query.answered.done():
                query.answered.set_result(outcome)
        for keys in self._again:
            self._invalid(keys)
        self._again.clear()
        if self._was_late and not self._queries:
            self.ping()


def _fail(reply: "asyncio.Future[Any]", error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
        reply.exception()  # mark it as retrieved: perhaps nothing waits for it


def pack(*parts: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


_PING = pack(b"PING")


class RedisServer:
    """Address, credentials and greeting of one server, read from its URL.

    `prefixes`: of the keys whose changes are pushed; empty for a server without tracking. Raises StoreError for an
    invalid option.
    """

    def __init__(self, url: str, prefixes: Sequence[bytes] = ()) -> None:
        try:
            read = ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
        except (TypeError, ValueError) as error:
            raise StoreError(f"invalid option in the Redis URL: {error}") from error
        self._read = cast(AbstractConnection, read)
        self._greeting = _greeting(self._read, prefixes)

    async def connect(self, limit_s: float, invalid: Invalid) -> Line:
        """Connect and greet. Raises StoreError if the server refuses, else what the network raises."""
        loop, read = asyncio.get_running_loop(), self._read
        context = _tls(read)
        line = Line(invalid, limit_s)
        if isinstance(read, UnixDomainSocketConnection):
            await loop.create_unix_connection(lambda: line, read.path)
        else:
            port = read.port  # type: ignore[attr-defined]
            await loop.create_connection(lambda: line, read.host, port, ssl=context)
        try:
            for command in self._greeting:
                (reply,) = await line.send(pack(*command), 1, lambda replies: replies)
                if isinstance(reply, hiredis.ReplyError):
                    raise StoreError(_explain(command, reply)) from reply
                if isinstance(reply, dict):
                    line.is_master = reply.get(b"role", b"master") == b"master"
        except BaseException:
            line.end("refused")
            raise
        return line


def _tls(read: AbstractConnection) -> ssl.SSLContext | None:
    """Return the TLS context of the URL's options, from the current files."""
    if not isinstance(read, SSLConnection):
        return None
    try:
        return read.ssl_context.get()
    except (OSError, RedisError) as error:
        files = [read.ssl_context.ca_certs, read.ssl_context.certfile, read.ssl_context.keyfile]
        named = ", ".join(str(path) for path in files if path)
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
