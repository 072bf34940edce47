"""A connection to one Redis server: opened on first use, reopened when lost. Tracks the server's state, so that no
request waits for a late, silent or lost server. Does not know what is asked.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import hiredis

from service.errors import StoreError
from service.redis.redis_line import Accept, Ended, Line, RedisServer

T = TypeVar("T")
State = Literal["up", "slow", "refusing", "down"]
Seek = Callable[[], Awaitable[RedisServer]]
"""Return the server's current address, within its own time limit. Raises StoreError if it is unknown."""

# A row in memory counts as current for this long after the node's last answer.
SURE_S = 0.8
_BEAT_S = 0.2
_SILENT_S = 2.0
_FIRST_PAUSE_S = 0.05
_LAST_PAUSE_S = 1.0
_LONG_LIFE_S = 1.0
# A healthy server's errors: it does not hold the key, or not in the expected form.
_OF_THE_KEY = ("MOVED ", "ASK ", "TRYAGAIN ", "WRONGTYPE ")
Receive = Callable[[Sequence[int], Sequence[Any], int], T]
"""Called for each node's answer, in the order of its replies and invalidations: with the commands' indices, their
replies (some may be a `hiredis.ReplyError`), and the epoch of the connection.
"""


Invalid = Callable[[Sequence[bytes]], None]
"""Called with keys that changed."""


class Command(NamedTuple):
    """A packed command and one of its keys; in a cluster all its keys must be in one slot."""

    key: bytes
    packed: bytes


class Answers(NamedTuple, Generic[T]):
    """What was accepted from each node, and why a node did not answer, if one did not."""

    outcomes: list[T]
    error: StoreError | None


class RedisLink:
    """Connects when first used, and again whenever the connection is lost. Every failure is a StoreError.

    `address` is for messages. `epochs` numbers connections across links. `needs_master`: refuse a replica.
    """

    def __init__(
        self,
        address: str,
        seek: Seek,
        timeout_s: float,
        epochs: Iterator[int],
        invalid: Invalid,
        needs_master: bool = False,
    ) -> None:
        self.address = address
        self._seek = seek
        self._timeout_s = timeout_s
        self._epochs = epochs
        self._tell_invalid = invalid
        self._needs_master = needs_master
        self._line: Line | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._first_try: asyncio.Future[None] | None = None
        self._reason = "not connected yet"
        self._ended_at = time.perf_counter()
        self._refuses = False
        self.epoch = next(epochs)
        """Epoch of the connection, or of the last "all keys may have changed": what was read earlier may be
        outdated."""

    @property
    def proved_at(self) -> float:
        """All invalidations up to this time of `time.perf_counter` have arrived; without a connection, that of the last
        one, which had another epoch."""
        return self._line.proved_at if self._line else self._ended_at

    @property
    def state(self) -> State:
        """The server's state. For any thread."""
        line = self._line
        if line is None:
            return "down"
        if line.is_late:
            return "slow"
        return "refusing" if self._refuses else "up"

    async def ask(self, commands: bytes, count: int, accept: Accept, deadline: float | None = None) -> Any:  # noqa: ANN401 - of any kind
        """Send `count` packed commands, and return what `accept` makes of their replies on arrival.

        Raises StoreError after the time limit, or at the deadline (of `time.perf_counter`) if that is earlier. `accept`
        is called in the order of replies and invalidations, even if the caller no longer waits.
        """
        self.open()
        limit_s = self._timeout_s
        if deadline is not None and (limit_s := min(limit_s, deadline - time.perf_counter())) <= 0:
            raise StoreError(f"Redis at {self.address} was not asked: no time left before the deadline")
        try:
            async with asyncio.timeout(limit_s):
                if self._line is None and self._first_try is not None:
                    await asyncio.shield(self._first_try)
                return await self._send(commands, count, accept)
        except TimeoutError:
            raise self._late(limit_s) from None
        except Ended as error:
            raise StoreError(f"Redis at {self.address}: {error}") from error

    def open(self) -> None:
        """Connect, unless connected or trying."""
        if self._keeper is None:
            self._first_try = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.create_task(self._keep())

    def renew(self, reason: str) -> None:
        """Reconnect, for a reason that the link cannot know itself."""
        if self._line is not None:
            self._line.end(reason)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def _send(self, commands: bytes, count: int, accept: Accept) -> "asyncio.Future[Any]":
        line = self._line
        if line is None:
            raise StoreError(f"Redis at {self.address}: {self._reason}")
        # Replies arrive in order: behind a late one, waiting is pointless.
        if line.is_late:
            raise self._late(self._timeout_s)
        return line.send(commands, count, lambda replies: self._accept(replies, accept))

    def _accept(self, replies: list[Any], accept: Accept) -> Any:  # noqa: ANN401 - of any kind
        first = replies[0]
        self._refuses = isinstance(first, hiredis.ReplyError) and not str(first).startswith(_OF_THE_KEY)
        return accept(replies)

    def _late(self, limit_s: float) -> StoreError:
        return StoreError(f"Redis at {self.address} did not answer within {limit_s * 1000:.3g} ms")

    async def _keep(self) -> None:
        pause = 0.0
        while True:
            started, line = time.perf_counter(), None
            try:
                line = self._line = await self._connect()
                self._tried()
                self._reason = await self._beat(line)
            except (StoreError, Ended) as error:
                self._reason = str(error)
            except TimeoutError:
                self._reason = f"did not answer within {self._timeout_s * 1000:g} ms"
            except Exception as error:
                # Errors of the system, of TLS, or of an invalid address; none contains credentials. The link continues
                # after any error: without its keeper it would stay down.
                self._reason = f"{type(error).__name__}: {error}"[:500]
            finally:
                was_late = self._lose()
            if line is not None and time.perf_counter() - started > _LONG_LIFE_S:
                pause = 0.0
            if pause or was_late:
                self._tried()
                await asyncio.sleep(pause)
            elif self._first_try is None:
                # Queries wait while a lost connection is reopened, which is tried at once and once; not after a server
                # was silent.
                self._first_try = asyncio.get_running_loop().create_future()
            pause = min(max(2 * pause, _FIRST_PAUSE_S), _LAST_PAUSE_S)

    def _tried(self) -> None:
        if self._first_try is not None and not self._first_try.done():
            self._first_try.set_result(None)
        self._first_try = None

    def _lose(self) -> bool:
        """Handle a lost connection; return whether it had been late."""
        self.epoch = next(self._epochs)
        line, self._line = self._line, None
        if line is None:
            return False
        was_late = line.is_late
        self._ended_at = line.proved_at
        line.end(self._reason)
        return was_late

    async def _connect(self) -> Line:
        target = await self._seek()
        async with asyncio.timeout(max(self._timeout_s, _BEAT_S)):
            line = await target.connect(self._timeout_s, self._invalid)
        if self._needs_master and not line.is_master:
            line.end("is a replica")
            raise StoreError("is a replica, expected the master")
        return line

    def _invalid(self, keys: Sequence[bytes] | None) -> None:
        """If all keys may have changed, as after FLUSHALL, start a new epoch: this costs the same for any number of
        rows."""
        if keys is not None:
            self._tell_invalid(keys)
            return
        self.epoch = next(self._epochs)

    async def _beat(self, line: Line) -> str:
        """Ping periodically; return why the connection ended."""
        while not line.ended.done():
            if line.silent_for() > max(_SILENT_S, self._timeout_s):
                return f"was silent for {_SILENT_S:g} s"
            if line.is_idle:
                line.ping()
            await asyncio.wait([line.ended], timeout=_BEAT_S)
        return line.ended.result()


def checked(reply: Any, address: str) -> Any:  # noqa: ANN401 - any reply
    """Return the reply. Raises StoreError if it is an error."""
    if isinstance(reply, hiredis.ReplyError):
        raise StoreError(f"Redis at {address}: {reply}")
    return reply
