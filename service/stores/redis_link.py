"""One connection to Redis, kept up: commands go out without waiting for one another, replies come back in their order,
and between them, in that same order, word of the keys that somebody changed.

Because of this order a row that was read here is known to be what Redis holds for as long as no word of it has come,
and the connection answers. Knows the protocol (RESP3, client tracking). Does not know what keys and values mean.
"""

import asyncio
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, SSLConnection, UnixDomainSocketConnection

from service.settings import redis_address
from service.stores.store import StoreError

Accept = Callable[[Any], Any]
Invalid = Callable[[Sequence[bytes] | None], None]
"""Called with the keys that changed, or None when all may have."""

_BEAT_S = 0.2
_SILENT_S = 2.0
_FIRST_PAUSE_S = 0.05
_LAST_PAUSE_S = 1.0
_LONG_LIFE_S = 1.0


class _Asked(NamedTuple):
    at: float
    accept: Accept
    reply: "asyncio.Future[Any]"


class RedisLink:
    """Connects when first used, and again whenever the connection is lost. Every failure is a StoreError.

    `prefixes`: of the keys to hear of when they change; empty for none, which a server without tracking can do, too.
    """

    def __init__(self, url: str, timeout_s: float, prefixes: Sequence[bytes], invalid: Invalid) -> None:
        self.address = redis_address(url)
        self._target = _target(url)
        self._timeout_s = timeout_s
        self._hello = _greeting(self._target, prefixes)
        self._invalid = invalid
        self._line: _Line | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first_try: asyncio.Future[None] | None = None
        self._reason = "not connected yet"
        self._ended_at = time.monotonic()
        self.epoch = 0
        """How many connections there have been: what was read in an earlier epoch may have changed unheard."""

    @property
    def proved_at(self) -> float:
        """When, of `time.monotonic`, all words of change that there were are known to have come."""
        return self._line.proved_at if self._line else -math.inf

    @property
    def last_proved_at(self) -> float:
        """The same, but of an earlier connection too, where there is none."""
        return self._line.proved_at if self._line else self._ended_at

    async def ask(self, command: bytes, accept: Accept = lambda reply: reply) -> Any:  # noqa: ANN401 - any reply
        """What `accept` makes of the reply to a packed command, the moment it comes. StoreError after the time limit.

        `accept` is called in the order of replies and changes, even if nobody waits for its outcome any more.
        """
        if self._keeper is None:
            self._first_try = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep())
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._line is None and self._first_try is not None:
                    await asyncio.shield(self._first_try)
                return await self._send(command, accept)
        except TimeoutError:
            raise self._late() from None
        except (hiredis.ReplyError, _Ended) as error:
            raise StoreError(f"Redis at {self.address}: {error}") from error

    async def close(self) -> None:
        """Ends the connection, and makes no other."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def _send(self, command: bytes, accept: Accept) -> "asyncio.Future[Any]":
        line = self._line
        if line is None:
            raise StoreError(f"Redis at {self.address}: {self._reason}")
        # Replies come in order: behind one that is late there is nothing to wait for.
        if line.asked and time.monotonic() - line.asked[0].at > self._timeout_s:
            raise self._late()
        return line.send(command, accept)

    def _late(self) -> StoreError:
        return StoreError(f"Redis at {self.address} did not answer within {self._timeout_s * 1000:g} ms")

    async def _keep(self) -> None:
        pause = 0.0
        while True:
            started, line = time.monotonic(), None
            try:
                line = await self._connect()
                self._line = line
                self._tried()
                self._reason = await self._beat(line)
            except StoreError as error:
                self._reason = str(error)
            except TimeoutError:
                self._reason = f"did not answer within {self._timeout_s * 1000:g} ms"
            except _Ended as error:
                self._reason = str(error)
            except (OSError, hiredis.HiredisError) as error:
                # Of the operating system, of TLS or of the protocol; none knows of credentials.
                self._reason = f"{type(error).__name__}: {error}"
            finally:
                self._lose()
            if line is not None and time.monotonic() - started > _LONG_LIFE_S:
                pause = 0.0
            if pause:
                self._tried()
                await asyncio.sleep(pause)
            elif self._first_try is None:
                # Whoever asks while a lost connection is made anew, at once and once, waits for it.
                self._first_try = asyncio.get_running_loop().create_future()
            pause = min(max(2 * pause, _FIRST_PAUSE_S), _LAST_PAUSE_S)

    def _tried(self) -> None:
        if self._first_try is not None and not self._first_try.done():
            self._first_try.set_result(None)
        self._first_try = None

    def _lose(self) -> None:
        self.epoch += 1
        line, self._line = self._line, None
        if line is not None:
            self._ended_at = line.proved_at
            line.end(self._reason)

    async def _connect(self) -> "_Line":
        loop, target = asyncio.get_running_loop(), self._target
        async with asyncio.timeout(max(self._timeout_s, _BEAT_S)):
            made: tuple[asyncio.Transport, _Line]
            if isinstance(target, UnixDomainSocketConnection):
                made = await loop.create_unix_connection(lambda: _Line(self._invalid), target.path)
            else:
                made = await loop.create_connection(
                    lambda: _Line(self._invalid),
                    target.host,
                    target.port,  # type: ignore[attr-defined]
                    ssl=target.ssl_context.get() if isinstance(target, SSLConnection) else None,
                )
            transport, line = made
            try:
                for command in self._hello:
                    await line.send(pack(*command), lambda reply: reply)
            except hiredis.ReplyError as error:
                transport.abort()
                raise StoreError(_explain(command, error)) from error
            except BaseException:
                transport.abort()
                raise
            return line

    async def _beat(self, line: "_Line") -> str:
        """Asks for a sign of life now and then; why the connection ended, when it did."""
        while not line.ended.done():
            if line.asked and time.monotonic() - line.asked[0].at > max(_SILENT_S, self._timeout_s):
                return f"was silent for {_SILENT_S:g} s"
            if not line.asked:
                line.send(pack(b"PING"), lambda reply: reply)
            await asyncio.wait([line.ended], timeout=_BEAT_S)
        return line.ended.result()


class _Ended(ConnectionError):
    """The connection ended before a reply came; the message says why."""


class _Line(asyncio.Protocol):
    """One connection from its beginning to its end."""

    def __init__(self, invalid: Invalid) -> None:
        self._invalid = invalid
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self.asked: deque[_Asked] = deque()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.proved_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if (own := transport.get_extra_info("socket")) is not None and own.family != socket.AF_UNIX:
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, command: bytes, accept: Accept) -> "asyncio.Future[Any]":
        """What `accept` will have made of the reply."""
        asked = _Asked(time.monotonic(), accept, asyncio.get_running_loop().create_future())
        self.asked.append(asked)
        self._transport.write(command)
        return asked.reply

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
        while self.asked:
            _fail(self.asked.popleft().reply, _Ended(reason))
        if not self.ended.done():
            self.ended.set_result(reason)

    def _hear(self, push: Sequence[Any]) -> None:
        if push[0] == b"invalidate":
            self._invalid(push[1])

    def _answer(self, reply: object) -> None:
        if not self.asked:
            raise hiredis.ProtocolError("a reply that nobody asked for")
        asked = self.asked.popleft()
        # All that changed before the command was answered has been heard of by now.
        self.proved_at = asked.at
        if isinstance(reply, hiredis.ReplyError):
            _fail(asked.reply, reply)
            return
        try:
            outcome = asked.accept(reply)
        except StoreError as error:
            _fail(asked.reply, error)
            return
        if not asked.reply.done():
            asked.reply.set_result(outcome)


def _fail(reply: "asyncio.Future[Any]", error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
        reply.exception()  # looked at, for there may be nobody who waits for it


def pack(*parts: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


def _target(url: str) -> AbstractConnection:
    """Where the URL leads and by which credentials, read by redis-py; not connected."""
    try:
        return cast(AbstractConnection, ConnectionPool.from_url(url).make_connection())  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as error:
        raise StoreError(f"the Redis URL has an option that cannot be: {error}") from error


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
