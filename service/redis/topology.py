"""Redis topologies with all keys on one server: a single server, or the master named by Sentinels; and the choice of
topology by URL. Does not know what is asked.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import StoreError
from service.redis.cluster import Cluster
from service.redis.redis_line import VALUES_AT_ONCE, RedisServer, pack
from service.redis.redis_link import SURE_S, Answers, Command, Invalid, Receive, RedisLink, State, checked
from service.redis.redis_url import Address, RedisUrl, host_port, parse_redis_url

T = TypeVar("T")
_SENTINEL_LIMIT_S = 0.5
_WATCH_S = 1.0
_VALUE = {bytes, type(None)}


def _ignore(keys: Sequence[bytes]) -> None:
    """Without tracking, no key is invalidated."""


class OneServer:
    """A topology with all keys on one server."""

    def __init__(self, url: RedisUrl, timeout_s: float, prefixes: Sequence[bytes], invalid: Invalid) -> None:
        self.address = url.address
        self._url = url
        self._prefixes = prefixes
        needs_master = url.form == "sentinel"
        self._link = RedisLink(self.address, self._seek, timeout_s, itertools.count(), invalid, needs_master)

    @property
    def state(self) -> State:
        return self._link.state

    @property
    def proved_at(self) -> float:
        return self._link.proved_at

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        return [list(range(len(keys)))] if keys else []

    def sure(self) -> Sequence[int]:
        return (self._link.epoch,) if time.perf_counter() - self._link.proved_at < SURE_S else ()

    async def ask(self, commands: Sequence[Command], accept: Receive[T], deadline: float | None = None) -> Answers[T]:
        if not commands:
            return Answers([], None)
        places = range(len(commands))
        packed = commands[0].packed if len(commands) == 1 else b"".join([command.packed for command in commands])

        def accepted(replies: list[Any]) -> T:
            return accept(places, replies, self._link.epoch)

        try:
            return Answers([await self._link.ask(packed, len(commands), accepted, deadline)], None)
        except StoreError as error:
            return Answers([], error)

    async def close(self) -> None:
        await self._link.close()

    async def _seek(self) -> RedisServer:
        return RedisServer(self._url.plain, self._prefixes)


class SentinelMaster(OneServer):
    """The master named by Sentinels: looked up for each connection, and watched, so that a failover is followed.

    The Sentinel that answered last is asked first.
    """

    def __init__(self, url: RedisUrl, timeout_s: float, prefixes: Sequence[bytes], invalid: Invalid) -> None:
        super().__init__(url, timeout_s, prefixes, invalid)
        self._sentinels = list(url.hosts)
        self._named: Address | None = None
        self._watching: asyncio.Task[None] | None = None

    async def ask(self, commands: Sequence[Command], accept: Receive[T], deadline: float | None = None) -> Answers[T]:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return await super().ask(commands, accept, deadline)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await super().close()

    async def _seek(self) -> RedisServer:
        self._named = await self._master()
        return RedisServer(self._url.of_server(self._named), self._prefixes)

    async def _master(self) -> Address:
        """Return the master's address from the first Sentinel that knows it. Raises StoreError if none does."""
        reasons = []
        for host in list(self._sentinels):
            try:
                async with asyncio.timeout(_SENTINEL_LIMIT_S):
                    found = await self._ask_sentinel(host)
            except TimeoutError:
                reasons.append(f"{host_port(host)} did not answer")
            except Exception as error:  # of the network, or of what a Sentinel sent
                reasons.append(f"{host_port(host)}: {error}")
            else:
                self._sentinels.remove(host)
                self._sentinels.insert(0, host)
                return found
        raise StoreError(f"no Sentinel names the master {self._url.master!r}: {'; '.join(reasons)}")

    async def _ask_sentinel(self, host: Address) -> Address:
        line = await RedisServer(self._url.of_sentinel(host)).connect(_SENTINEL_LIMIT_S, lambda keys: None)
        try:
            command = pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._url.master.encode())
            (reply,) = await line.send(command, 1, lambda replies: replies)
        finally:
            line.end("asked and answered")
        match checked(reply, host_port(host)):
            case [bytes(name), bytes(port)]:
                return name.decode(), int(port)
        raise StoreError("does not know a master of that name")

    async def _watch(self) -> None:
        """Ask Sentinels periodically: a replaced master may keep answering."""
        while True:
            await asyncio.sleep(_WATCH_S)
            before = self._named
            try:
                found = await self._master()
            except StoreError:
                continue  # keep the current master
            if before is not None and found != before == self._named:
                self._link.renew(f"Sentinels say that {host_port(found)} is the master now")


Nodes = OneServer | Cluster
"""A topology: commands go to their keys' nodes, all at once."""


def open_nodes(url: str, timeout_s: float, prefixes: Sequence[bytes] = (), invalid: Invalid = _ignore) -> Nodes:
    """Return the nodes of a URL, not yet connected.

    `timeout_s`: of one query. `prefixes`: of keys whose changes `invalid` gets; empty for a server without tracking.
    Raises StoreError for an invalid option in the URL.
    """
    parsed = parse_redis_url(url)
    RedisServer(parsed.of_server(("", 0)), prefixes)  # checks the options before anything connects
    if parsed.form == "cluster":
        return Cluster(parsed, timeout_s, prefixes, invalid)
    form = SentinelMaster if parsed.form == "sentinel" else OneServer
    return form(parsed, timeout_s, prefixes, invalid)


def are_among(epochs: NDArray[np.int64], sure: Sequence[int]) -> NDArray[np.bool_]:
    """Return, for each epoch [n], whether it is one of a few."""
    are = np.zeros(len(epochs), bool)
    for epoch in sure:
        are |= epochs == epoch
    return are


async def ask_one(nodes: Nodes, key: bytes, *parts: bytes, deadline: float | None = None) -> Any:  # noqa: ANN401 - any reply
    """Return the reply to a command for one key. Every failure is a StoreError."""

    def accept(places: Sequence[int], replies: Sequence[Any], epoch: int) -> Any:  # noqa: ANN401 - any reply
        return checked(replies[0], nodes.address)

    answers = await nodes.ask([Command(key, pack(*parts))], accept, deadline)
    if answers.error is not None:
        raise answers.error
    return answers.outcomes[0]


async def get_many(
    nodes: Nodes,
    keys: Sequence[bytes],
    accept: Callable[[list[int], list[bytes | None], int], T],
    deadline: float | None = None,
) -> Answers[T]:
    """Read keys with one MGET per group, in parts that hold the event loop only briefly.

    `accept` gets the keys' indices, their values, and the epoch, one node at a time; a reply that is not a list of that
    many values is a StoreError.
    """
    starts = range(0, len(keys), VALUES_AT_ONCE)
    parts = await asyncio.gather(*[_get_some(nodes, keys, start, accept, deadline) for start in starts])
    error = next((part.error for part in parts if part.error is not None), None)
    return Answers([outcome for part in parts for outcome in part.outcomes], error)


async def _get_some(
    nodes: Nodes,
    keys: Sequence[bytes],
    start: int,
    accept: Callable[[list[int], list[bytes | None], int], T],
    deadline: float | None,
) -> Answers[T]:
    """Read `VALUES_AT_ONCE` keys from an index on."""
    some = keys[start : start + VALUES_AT_ONCE]
    groups = nodes.groups(some)
    commands = [Command(some[group[0]], pack(b"MGET", *[some[place] for place in group])) for group in groups]

    def accept_lists(at: Sequence[int], replies: Sequence[Any], epoch: int) -> T:
        places: list[int] = []
        values: list[bytes | None] = []
        for number, reply in zip(at, replies, strict=True):
            found = checked(reply, nodes.address)
            if not isinstance(found, list) or len(found) != len(groups[number]) or not set(map(type, found)) <= _VALUE:
                raise StoreError(
                    f"Redis at {nodes.address}: the reply to MGET is not a list of {len(groups[number])} values"
                )
            places += [start + place for place in groups[number]]
            values += found
        return accept(places, values, epoch)

    return await nodes.ask(commands, accept_lists, deadline)
