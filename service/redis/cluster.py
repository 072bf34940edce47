"""Redis Cluster: a connection to each master, the slot map, redirections and failovers. Does not know what is asked."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import hiredis
from redis.crc import key_slot

from service.errors import StoreError
from service.redis.redis_line import RedisServer, pack
from service.redis.redis_link import SURE_S, Answers, Command, Invalid, Receive, RedisLink, State, checked
from service.redis.redis_url import Address, RedisUrl, host_port

T = TypeVar("T")
Ranges = dict[Address, list[tuple[int, int]]]
"""Slots of each master, as (first, last) ranges."""

SLOTS = 16_384
_INFO, _RANGES, _ASKING = pack(b"CLUSTER", b"INFO"), pack(b"CLUSTER", b"SLOTS"), pack(b"ASKING")
# Far more than real clusters have: redirections to invented addresses must not open connections without end.
_MAX_NODES = 1_000
_WATCH_S = 1.0
_SOON_S = 0.1
# The known node, the one that it names, and one more.
_ROUNDS = 3
_WORST: tuple[State, ...] = ("up", "slow", "refusing", "down")
# Replies that mean "do not ask this node for these keys now". Its other replies may be valid.
_NOT_NOW = ("CLUSTERDOWN ", "TRYAGAIN ", "LOADING ", "MASTERDOWN ", "MOVED ", "ASK ")


class _Node(NamedTuple):
    address: Address
    link: RedisLink


class _Answer(NamedTuple, Generic[T]):
    """One node's answer: what was accepted; commands by index to redirect, with ASKING or not; its error."""

    outcome: list[T]
    moved: dict[int, tuple[_Node, bool]]
    error: StoreError | None


class Redirect(NamedTuple):
    """A redirection: MOVED (permanent) or ASK (during a migration)."""

    to: Address
    is_for_good: bool


class Cluster:
    """All masters of a cluster. `invalid` is called for each of them."""

    def __init__(self, url: RedisUrl, timeout_s: float, prefixes: Sequence[bytes], invalid: Invalid) -> None:
        self.address = url.address
        self._url = url
        self._timeout_s = timeout_s
        self._prefixes = prefixes
        self._invalid = invalid
        self._epochs = itertools.count()
        self._nodes: dict[Address, _Node] = {}
        self._by_slot: list[_Node | None] = [None] * SLOTS
        self._cut_off: set[Address] = set()
        self._is_due = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._first_try: asyncio.Future[None] | None = None
        self._reason = "not connected yet"
        self._made_at = time.perf_counter()

    @property
    def state(self) -> State:
        states = [node.link.state for node in self._nodes.copy().values()]
        if not states or self._cut_off:
            return "down"
        return max(states, key=_WORST.index)

    @property
    def proved_at(self) -> float:
        return min((node.link.proved_at for node in self._nodes.values()), default=self._made_at)

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            groups.setdefault(key_slot(key), []).append(place)
        return list(groups.values())

    def sure(self) -> Sequence[int]:
        """Return the epochs of nodes that answered recently and are not cut off from the cluster."""
        since = time.perf_counter() - SURE_S
        # A copy, because scoring threads read while the event loop adds and removes nodes.
        return [
            node.link.epoch
            for address, node in self._nodes.copy().items()
            if node.link.proved_at > since and address not in self._cut_off
        ]

    async def ask(self, commands: Sequence[Command], accept: Receive[T], deadline: float | None = None) -> Answers[T]:
        """Send each command to its key's node, all nodes concurrently, and again if keys have moved."""
        until = time.perf_counter() + self._timeout_s
        until = until if deadline is None else min(until, deadline)
        await self._begin(until)
        outcomes: list[T] = []
        error: StoreError | None = None
        where: dict[int, tuple[_Node, bool]] = {}
        for place, command in enumerate(commands):
            if (node := self._by_slot[key_slot(command.key)]) is not None:
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
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await asyncio.gather(*(node.link.close() for node in self._nodes.values()))

    async def _ask(
        self,
        node: _Node,
        places: list[int],
        asks: bool,
        commands: Sequence[Command],
        accept: Receive[T],
        until: float,
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
                        self._by_slot[key_slot(commands[place].key)] = to
                        self._is_due.set()
                else:
                    refusals.append(StoreError(f"Redis at {node.link.address}: {reply}"))
            return [accept(kept, values, node.link.epoch)] if kept else []

        sent = b"".join([_ASKING + command for command in packed] if asks else packed)
        try:
            outcome = await node.link.ask(sent, len(packed) * (2 if asks else 1), accepted, until)
        except StoreError as error:
            self._is_due.set()
            return _Answer([], {}, error)
        return _Answer(outcome, moved, refusals[0] if refusals else None)

    async def _begin(self, until: float) -> None:
        """Make the first query wait until the cluster was examined, successfully or not."""
        if self._keeper is None:
            self._first_try = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep())
        if self._first_try is not None:
            await asyncio.wait([self._first_try], timeout=until - time.perf_counter())

    def _node(self, address: Address) -> _Node:
        """Return the node of an address, and connect it. Raises StoreError if there are too many, unless it is the
        URL's."""
        if address not in self._nodes:
            if len(self._nodes) >= _MAX_NODES and address not in self._url.hosts:
                raise StoreError(f"Redis at {self.address}: reports more than {_MAX_NODES} nodes")
            url = self._url.of_server(address)

            async def seek() -> RedisServer:
                return RedisServer(url, self._prefixes)

            link = RedisLink(host_port(address), seek, self._timeout_s, self._epochs, self._invalid)
            link.open()
            self._nodes[address] = _Node(address, link)
        return self._nodes[address]

    async def _keep(self) -> None:
        """Refresh the view periodically, and soon after a failure or a moved slot."""
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
            await asyncio.sleep(_SOON_S)
            try:
                async with asyncio.timeout(_WATCH_S):
                    await self._is_due.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Adopt the newest view among known nodes; if none has one, ask the nodes of the URL."""
        reasons: dict[Address, object] = {}
        for addresses in (list(self._nodes), self._url.hosts):
            views = dict(zip(addresses, await asyncio.gather(*map(self._view, addresses)), strict=True))
            self._cut_off = {address for address, view in views.items() if view == -1}
            reasons |= {
                address: "the cluster is down, as it sees it" if view == -1 else view for address, view in views.items()
            }
            good = {address: view for address, view in views.items() if isinstance(view, int) and view >= 0}
            for address in sorted(good, key=good.__getitem__, reverse=True):
                try:
                    ranges = await self._question(address, _RANGES)
                    await self._adopt(read_ranges(ranges, address))
                    return
                except StoreError as error:
                    reasons[address] = error
        why = "; ".join(f"{host_port(address)}: {reason}" for address, reason in reasons.items())
        raise StoreError(f"no node describes the cluster: {why}")

    async def _view(self, address: Address) -> int | StoreError:
        """Return a node's view and its epoch, or why it has none."""
        try:
            return read_view(await self._question(address, _INFO))
        except StoreError as error:
            return error

    async def _question(self, address: Address, command: bytes) -> Any:  # noqa: ANN401 - any reply
        link = self._node(address).link
        return await link.ask(command, 1, lambda replies: checked(replies[0], link.address))

    async def _adopt(self, ranges: Ranges) -> None:
        """Apply a slot map; close connections to nodes without slots."""
        gone = [self._nodes.pop(address) for address in list(self._nodes) if address not in ranges]
        by_slot: list[_Node | None] = [None] * SLOTS
        for address, held in ranges.items():
            node = self._node(address)
            for first, last in held:
                by_slot[first : last + 1] = [node] * (last + 1 - first)
        self._by_slot = by_slot
        await asyncio.gather(*(node.link.close() for node in gone))


def read_redirect(error: hiredis.ReplyError, asked: Address) -> Redirect | None:
    """Parse an error as a redirection, if it is one. A node that names no host means its own."""
    kind, _, rest = str(error).partition(" ")
    host, _, port = rest.rpartition(" ")[2].rpartition(":")
    if kind not in ("MOVED", "ASK") or not port.isdecimal() or not 0 < int(port[:6]) < 2**16:
        return None
    return Redirect((host or asked[0], int(port)), kind == "MOVED")


def read_view(info: Any) -> int:  # noqa: ANN401 - any reply
    """Return the epoch of a node's view; −1 if it is cut off from the others, or in no cluster."""
    text = info.decode("utf-8", "replace") if isinstance(info, bytes) else ""
    lines = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    epoch = lines.get("cluster_current_epoch", "")
    return int(epoch[:20]) if lines.get("cluster_state") == "ok" and epoch.isdecimal() else -1


def read_ranges(reply: Any, asked: Address) -> Ranges:  # noqa: ANN401 - any reply
    """Parse the slots of each master from a CLUSTER SLOTS reply. Raises StoreError if it is invalid."""
    found: Ranges = {}
    left = SLOTS  # a slot has one master
    try:
        for first, last, (host, port, *_), *_ in reply:
            name = host.decode() if host else asked[0]
            left -= int(last) - int(first) + 1
            if left < 0 or not 0 <= int(first) <= int(last) < SLOTS:
                raise ValueError
            if name != "?":
                found.setdefault((name, int(port)), []).append((int(first), int(last)))
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise StoreError("the reply to CLUSTER SLOTS is invalid") from None
    if not found:
        raise StoreError("no node holds any slot")
    if len(found) > _MAX_NODES:
        raise StoreError(f"more than {_MAX_NODES} nodes hold slots")
    return found
