"""A cluster: a connection to each node that holds keys, each of which tells of the changes of its own.

Knows where keys are, follows them where they move to, and learns of failovers. Does not know what is asked.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import hiredis

from service.errors import StoreError
from service.redis.nodes import SURE_S, Accept, Answers, Command
from service.redis.redis_line import Ended, Target
from service.redis.redis_link import Ears, RedisLink, State
from service.redis.redis_url import Address, RedisUrl, host_port
from service.redis.slots import ASKING, INFO, RANGES, SLOTS, groups_of, read_ranges, read_redirect, read_view, slot_of

T = TypeVar("T")
_LIMIT_S = 0.5
_WATCH_S = 1.0
_SOON_S = 0.1
# Of one question: to the node that is known, to where it says that the key is, and once more.
_ROUNDS = 3
_WORST: tuple[State, ...] = ("up", "slow", "refusing", "down")
# A node that says so is none to be asked for these keys now; what it says of others may be right.
_NOT_NOW = ("CLUSTERDOWN ", "TRYAGAIN ", "LOADING ", "MASTERDOWN ", "MOVED ", "ASK ")


class _Node(NamedTuple):
    address: Address
    link: RedisLink


class _Answer(NamedTuple, Generic[T]):
    """Of one node: what was accepted, and which commands (by place) go to which other node, after an ASKING or not."""

    outcome: list[T]
    moved: dict[int, tuple[_Node, bool]]
    error: StoreError | None


class Cluster:
    """All masters of a cluster. `ears` hear of every one of them."""

    def __init__(self, url: RedisUrl, timeout_s: float, prefixes: Sequence[bytes], ears: Ears) -> None:
        self.address = url.address
        self._url = url
        self._timeout_s = timeout_s
        self._prefixes = prefixes
        self._ears = ears
        self._epochs = itertools.count()
        self._nodes: dict[Address, _Node] = {}
        self._by_slot: list[_Node | None] = [None] * SLOTS
        self._ranges: dict[Address, list[tuple[int, int]]] = {}
        self._cut_off: set[Address] = set()
        self._is_due = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._first_try: asyncio.Future[None] | None = None
        self._reason = "not connected yet"
        self._made_at = time.perf_counter()

    @property
    def state(self) -> State:
        """How the node fares that fares worst."""
        states = [node.link.state for node in self._nodes.values()]
        if not states or self._cut_off:
            return "down"
        return max(states, key=_WORST.index)

    @property
    def last_proved_at(self) -> float:
        """When all words of change were known to have come from every node."""
        return min((node.link.last_proved_at for node in self._nodes.values()), default=self._made_at)

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Places of keys by their slot."""
        return groups_of(keys)

    def current(self) -> list[int]:
        """The epochs of the connections that there are."""
        return [node.link.epoch for node in self._nodes.values()]

    def sure(self) -> Sequence[int]:
        """Those of connections to nodes that have answered lately, and are no cut-off part."""
        since = time.perf_counter() - SURE_S
        # A copy: scoring threads ask, too, while the loop learns of other nodes.
        return [
            node.link.epoch
            for address, node in self._nodes.copy().items()
            if node.link.proved_at > since and address not in self._cut_off
        ]

    async def ask(self, commands: Sequence[Command], accept: Accept[T], deadline: float | None = None) -> Answers[T]:
        """Sends each command to the node of its key, to all nodes at once, and once more where keys have moved."""
        until = time.perf_counter() + self._timeout_s
        until = until if deadline is None else min(until, deadline)
        await self._begin(until)
        outcomes: list[T] = []
        error: StoreError | None = None
        where: dict[int, tuple[_Node, bool]] = {}
        for place, command in enumerate(commands):
            if (node := self._by_slot[slot_of(command.key)]) is not None:
                where[place] = node, False
            else:
                error = StoreError(f"Redis at {self.address}: {self._reason}")
        for _ in range(_ROUNDS):
            parts: dict[tuple[_Node, bool], list[int]] = {}
            for place, to in where.items():
                parts.setdefault(to, []).append(place)
            answers = await asyncio.gather(
                *(self._ask(node, places, asks, commands, accept, until) for (node, asks), places in parts.items())
            )
            where = {}
            for answer in answers:
                outcomes += answer.outcome
                where |= answer.moved
                error = answer.error or error
            if not where:
                return Answers(outcomes, error)
        return Answers(outcomes, StoreError(f"Redis at {self.address}: keys move faster than they can be followed"))

    async def close(self) -> None:
        """Ends all connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.gather(*(node.link.close() for node in self._nodes.values()))

    async def _ask(
        self, node: _Node, places: list[int], asks: bool, commands: Sequence[Command], accept: Accept[T], until: float
    ) -> "_Answer[T]":
        packed = [commands[place].packed for place in places]
        moved: dict[int, tuple[_Node, bool]] = {}
        refusals: list[StoreError] = []

        def accepted(replies: list[Any]) -> list[T]:
            kept, values = [], []
            for place, reply in zip(places, replies[1::2] if asks else replies, strict=True):
                if not isinstance(reply, hiredis.ReplyError) or not str(reply).startswith(_NOT_NOW):
                    kept.append(place)
                    values.append(reply)
                elif (redirect := read_redirect(reply, node.address)) is not None:
                    to = self._node(redirect.to)
                    moved[place] = to, not redirect.is_for_good
                    if redirect.is_for_good:
                        self._by_slot[slot_of(commands[place].key)] = to
                        self._is_due.set()
                else:
                    refusals.append(StoreError(f"Redis at {node.link.address}: {reply}"))
            return [accept(kept, values, node.link.epoch)] if kept else []

        try:
            outcome = await node.link.ask(
                b"".join([ASKING + one for one in packed] if asks else packed),
                len(packed) * (2 if asks else 1),
                accepted,
                until,
            )
        except StoreError as error:
            self._is_due.set()
            return _Answer([], {}, error)
        return _Answer(outcome, moved, refusals[0] if refusals else None)

    async def _begin(self, until: float) -> None:
        """Who asks first waits until the cluster has been seen, or that could not be done."""
        if self._keeper is None:
            self._first_try = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep())
        if self._first_try is not None:
            await asyncio.wait([self._first_try], timeout=until - time.perf_counter())

    def _node(self, address: Address) -> _Node:
        if address not in self._nodes:
            url = self._url.of_server(address)

            async def seek() -> Target:
                return Target(url, self._prefixes)

            ears = Ears(self._ears.invalid, self._ears.renewed, self._fares)
            link = RedisLink(host_port(address), seek, self._timeout_s, self._epochs, ears)
            link.open()
            self._nodes[address] = _Node(address, link)
        return self._nodes[address]

    def _fares(self) -> None:
        self._is_due.set()
        self._ears.fares()

    async def _keep(self) -> None:
        """Looks at the cluster now and then, and soon after something of it has failed or moved."""
        while True:
            self._is_due.clear()
            try:
                await self._look()
                self._reason = "no node holds these keys"
            except StoreError as error:
                self._reason = str(error)
            if self._first_try is not None:
                self._first_try.set_result(None)
                self._first_try = None
            self._ears.fares()
            await asyncio.sleep(_SOON_S)
            try:
                async with asyncio.timeout(_WATCH_S):
                    await self._is_due.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        views: dict[Address, int] = {}
        for address, view in zip(list(self._nodes), await asyncio.gather(*map(self._view, self._nodes)), strict=True):
            if view is not None:
                views[address] = view
        self._cut_off = {address for address, view in views.items() if view < 0}
        reasons = []
        # Whoever has the newest view; then whoever the URL names.
        newest = sorted(set(views) - self._cut_off, key=lambda address: -views[address])
        for address in dict.fromkeys([*newest, *self._url.hosts]):
            try:
                ranges = await self._read(address)
            except StoreError as error:
                reasons.append(f"{host_port(address)}: {error}")
                continue
            await self._adopt(ranges)
            return
        raise StoreError(f"no node tells of the cluster: {'; '.join(reasons)}")

    async def _view(self, address: Address) -> int | None:
        """A node's view of the cluster; None where it does not answer."""
        try:
            view: int = await self._nodes[address].link.ask(INFO, 1, lambda replies: read_view(replies[0]))
        except StoreError:
            return None
        return view

    async def _read(self, address: Address) -> dict[Address, list[tuple[int, int]]]:
        """Where slots are, by a node that there is a connection to or that is tried for this alone."""
        ranges: dict[Address, list[tuple[int, int]]]
        if address in self._nodes:
            return await self._nodes[address].link.ask(RANGES, 1, lambda replies: read_ranges(replies[0], address))  # type: ignore[no-any-return]
        try:
            async with asyncio.timeout(_LIMIT_S):
                line = await Target(self._url.of_server(address)).connect(_LIMIT_S, lambda keys: None)
                try:
                    info, told = await line.send(INFO + RANGES, 2, lambda replies: replies)
                finally:
                    line.end("asked and answered")
        except TimeoutError:
            raise StoreError("did not answer") from None
        except (Ended, OSError, ValueError, hiredis.HiredisError) as error:
            raise StoreError(f"{type(error).__name__}: {error}") from error
        if isinstance(info, hiredis.ReplyError) or read_view(info) < 0:
            raise StoreError(
                str(info) if isinstance(info, hiredis.ReplyError) else "the cluster is down, as it sees it"
            )
        ranges = read_ranges(told, address)
        return ranges

    async def _adopt(self, ranges: dict[Address, list[tuple[int, int]]]) -> None:
        """Takes over where slots are; connections to nodes that hold none end."""
        gone = [self._nodes.pop(address) for address in list(self._nodes) if address not in ranges]
        by_slot: list[_Node | None] = [None] * SLOTS
        for address, held in ranges.items():
            node = self._node(address)
            for first, last in held:
                by_slot[first : last + 1] = [node] * (last + 1 - first)
        self._by_slot = by_slot
        await asyncio.gather(*(node.link.close() for node in gone))
