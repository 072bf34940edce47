"""What stores, live state and caches ask of a Redis deployment, whatever its form: each command goes to the node of its
key, all at once. Knows no keys and no values. `topology` and `cluster` are the forms.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import hiredis
import numpy as np
from numpy.typing import NDArray

from service.errors import StoreError
from service.redis.redis_line import pack
from service.redis.redis_link import State

T = TypeVar("T")
Accept = Callable[[Sequence[int], Sequence[Any], int], T]
"""Called when a node has answered, in the order of its replies and invalidations: with the places of the commands,
their replies (some of which may be a `hiredis.ReplyError`), and the epoch of the node's connection."""

# A row in memory counts as Redis's own for so long after the node last answered.
SURE_S = 0.8


class Command(NamedTuple):
    """A packed command and one of its keys; in a cluster all its keys must be in one slot."""

    key: bytes
    packed: bytes


class Answers(NamedTuple, Generic[T]):
    """What was accepted of each node that answered; and why a node did not, if one did not."""

    outcomes: list[T]
    error: StoreError | None


class Nodes(Protocol):
    """The nodes of one deployment. They connect when first used, and again whenever that is needed."""

    address: str

    @property
    def state(self) -> State:
        """The worst of all nodes' states."""
        ...

    @property
    def last_proved_at(self) -> float:
        """All invalidations of every node up to this time of `time.perf_counter` have arrived."""
        ...

    def groups(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Places of keys, in groups that one command can name together."""
        ...

    def current(self) -> list[int]:
        """The epochs of the current connections."""
        ...

    def sure(self) -> Sequence[int]:
        """The epochs for which this holds: what was read then, and was not invalidated since, is what Redis holds."""
        ...

    async def ask(self, commands: Sequence[Command], accept: Accept[T], deadline: float | None = None) -> Answers[T]:
        """Send all commands at once; return when all nodes have answered, after the time limit, or at the deadline (of
        `time.perf_counter`)."""
        ...

    async def close(self) -> None:
        """End all connections."""
        ...


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


async def get_many(
    nodes: Nodes,
    keys: Sequence[bytes],
    accept: Callable[[list[int], list[bytes | None], int], T],
    deadline: float | None = None,
) -> Answers[T]:
    """Read keys by one MGET a group. `accept` gets the places of keys, their values, and the epoch, a node at a time;
    a reply that is no list of that many values is a StoreError."""
    groups = nodes.groups(keys)
    commands = [Command(keys[group[0]], pack(b"MGET", *[keys[place] for place in group])) for group in groups]

    def accept_lists(at: Sequence[int], replies: Sequence[Any], epoch: int) -> T:
        places: list[int] = []
        values: list[bytes | None] = []
        for number, reply in zip(at, replies, strict=True):
            found = checked(reply, nodes.address)
            if not isinstance(found, list) or len(found) != len(groups[number]) or not set(map(type, found)) <= _VALUE:
                raise StoreError(
                    f"Redis at {nodes.address}: the reply to MGET is not a list of {len(groups[number])} values"
                )
            places += groups[number]
            values += found
        return accept(places, values, epoch)

    return await nodes.ask(commands, accept_lists, deadline)


_VALUE = {bytes, type(None)}


def checked(reply: Any, address: str) -> Any:  # noqa: ANN401 - any reply
    """The reply. Raises StoreError if it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        raise StoreError(f"Redis at {address}: {reply}")
    return reply
