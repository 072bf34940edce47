"""What the store of rows, live state and pointers ask of a Redis deployment, whatever its form: commands go to the node
that holds their key, all at once.

`OneServer` is the form with a single node; `sentinel` and `cluster` are the others. Knows no keys and no values.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import hiredis
import numpy as np
from numpy.typing import NDArray

from service.errors import StoreError
from service.redis.redis_line import pack
from service.redis.redis_link import RedisLink, State

T = TypeVar("T")
Accept = Callable[[Sequence[int], Sequence[Any], int], T]
"""Called when a node has answered, at once and in the order of its replies and words of change: with the places of
commands, their replies (a `hiredis.ReplyError` is one, too), and the epoch of the node's connection."""

# A row that is held counts as Redis's own for so long after it was last sure that no word of a change is on its way.
SURE_S = 0.8


class Command(NamedTuple):
    """A command as Redis reads it (`pack`), and one of its keys; in a cluster all its keys have to be in one slot."""

    key: bytes
    packed: bytes


class Answers(NamedTuple, Generic[T]):
    """What was accepted, of each node that answered; and why some node did not, if one did not."""

    outcomes: list[T]
    error: StoreError | None


class Nodes(Protocol):
    """The nodes of one deployment. Connects when first used, and again whenever that is needed."""

    address: str

    @property
    def state(self) -> State:
        """How the node fares that fares worst."""
        ...

    @property
    def last_proved_at(self) -> float:
        """When, of `time.perf_counter`, all words of change that there were are known to have come from every node."""
        ...

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Places of keys, in groups that one command can name together."""
        ...

    def current(self) -> list[int]:
        """The epochs of the connections that there are."""
        ...

    def sure(self) -> Sequence[int]:
        """The epochs of which is true: what was read in one, and of which no word of change has come, is what Redis
        holds."""
        ...

    async def ask(self, commands: Sequence[Command], accept: Accept[T], deadline: float | None = None) -> Answers[T]:
        """Sends all commands at once, each to the node of its key, and ends when all have answered, after the time
        limit, or at the deadline (of `time.perf_counter`)."""
        ...

    async def close(self) -> None:
        """Ends all connections."""
        ...


class OneServer:
    """A deployment in which one server holds all keys: a single one, or whichever Sentinels say is the master."""

    def __init__(self, link: RedisLink) -> None:
        self.address = link.address
        self._link = link

    @property
    def state(self) -> State:
        """How the server fares."""
        return self._link.state

    @property
    def last_proved_at(self) -> float:
        """When all words of change were known to have come."""
        return self._link.last_proved_at

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """One group of all."""
        return [list(range(len(keys)))]

    def current(self) -> list[int]:
        """The one epoch."""
        return [self._link.epoch]

    def sure(self) -> Sequence[int]:
        """The current epoch, where the server has answered lately."""
        return (self._link.epoch,) if time.perf_counter() - self._link.proved_at < SURE_S else ()

    async def ask(self, commands: Sequence[Command], accept: Accept[T], deadline: float | None = None) -> Answers[T]:
        """Sends all commands in one go."""
        link, places = self._link, range(len(commands))
        packed = commands[0].packed if len(commands) == 1 else b"".join([one.packed for one in commands])

        def accepted(replies: list[Any]) -> T:
            return accept(places, replies, link.epoch)

        try:
            return Answers([await link.ask(packed, len(commands), accepted, deadline)], None)
        except StoreError as error:
            return Answers([], error)

    async def close(self) -> None:
        """Ends the connection."""
        await self._link.close()


def are_among(epochs: NDArray[np.int64], sure: Sequence[int]) -> NDArray[np.bool_]:
    """[n] whether each epoch is one of a few."""
    are = np.zeros(len(epochs), bool)
    for one in sure:
        are |= epochs == one
    return are


async def ask_one(nodes: Nodes, key: bytes, *parts: bytes, deadline: float | None = None) -> Any:  # noqa: ANN401 - any reply
    """The reply to one command about one key. Every failure is a StoreError."""

    def accept(places: Sequence[int], replies: Sequence[Any], epoch: int) -> Any:  # noqa: ANN401 - any reply
        return checked(replies[0], nodes.address)

    answers = await nodes.ask([Command(key, pack(*parts))], accept, deadline)
    if answers.error is not None:
        raise answers.error
    return answers.outcomes[0]


def checked(reply: Any, address: str) -> Any:  # noqa: ANN401 - any reply
    """The reply. Raises StoreError where it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        raise StoreError(f"Redis at {address}: {reply}")
    return reply
