"""A master that Sentinels name: found when a connection is made, and watched, so that a failover is followed.

Knows how to ask Sentinels. Does not know what the master is asked.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import hiredis

from service.errors import StoreError
from service.redis.nodes import Accept, Answers, Command, OneServer
from service.redis.redis_line import Ended, Target, pack
from service.redis.redis_link import RedisLink
from service.redis.redis_url import Address, RedisUrl, host_port

T = TypeVar("T")
_LIMIT_S = 0.5
_WATCH_S = 1.0


class Sentinels:
    """Those of one master. The one that answered last is asked first."""

    def __init__(self, url: RedisUrl, prefixes: Sequence[bytes]) -> None:
        self._url = url
        self._prefixes = prefixes
        self._hosts = list(url.hosts)
        self.named: Address | None = None
        """The master that the last connection was made to, or tried."""

    async def seek(self) -> Target:
        """Where the master is. Raises StoreError where no Sentinel says so."""
        self.named = await self.master()
        return Target(self._url.of_server(self.named), self._prefixes)

    async def master(self) -> Address:
        """The master's address, as the first Sentinel that knows it has it."""
        reasons = []
        for host in list(self._hosts):
            try:
                async with asyncio.timeout(_LIMIT_S):
                    found = await self._ask(host)
            except TimeoutError:
                reasons.append(f"{host_port(host)} did not answer")
            except (StoreError, Ended, OSError, ValueError, hiredis.HiredisError) as error:
                reasons.append(f"{host_port(host)}: {error}")
            else:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return found
        raise StoreError(f"no Sentinel names the master {self._url.master!r}: {'; '.join(reasons)}")

    async def _ask(self, host: Address) -> Address:
        line = await Target(self._url.of_sentinel(host)).connect(_LIMIT_S, lambda keys: None)
        try:
            command = pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._url.master.encode())
            (reply,) = await line.send(command, 1, lambda replies: replies)
        finally:
            line.end("asked and answered")
        if isinstance(reply, hiredis.ReplyError):
            raise StoreError(str(reply))
        match reply:
            case [bytes(host_name), bytes(port)]:
                return host_name.decode(), int(port)
        raise StoreError("knows no master of that name")


class SentinelMaster(OneServer):
    """Whichever server Sentinels say is the master, as one server that holds all keys."""

    def __init__(self, link: RedisLink, sentinels: Sentinels) -> None:
        super().__init__(link)
        self._sentinels = sentinels
        self._watching: asyncio.Task[None] | None = None

    async def ask(self, commands: Sequence[Command], accept: Accept[T], deadline: float | None = None) -> Answers[T]:
        """Sends all commands in one go."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return await super().ask(commands, accept, deadline)

    async def close(self) -> None:
        """Ends the watch and the connection."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await super().close()

    async def _watch(self) -> None:
        """A master that was replaced may answer on, as if nothing had happened; so Sentinels are asked now and then."""
        while True:
            await asyncio.sleep(_WATCH_S)
            before = self._sentinels.named
            try:
                found = await self._sentinels.master()
            except StoreError:
                continue  # the master is as good as it was
            if before is not None and found != before == self._sentinels.named:
                self._link.renew(f"Sentinels say that {host_port(found)} is the master now")
