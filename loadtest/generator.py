"""Sends requests to a service over many keep-alive connections, when they are due (an open loop) or as fast as a few
clients get replies (a closed one), and counts what came of them.

In the open loop a request that waits for the service, for a connection or for this process counts from the moment that
it was due: what a stall delays is not left out.
"""

import asyncio
import gc
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from select import select
from typing import NamedTuple
from urllib.parse import urlsplit

from loadtest.arrivals import Times
from loadtest.connection import Connection, ReadingConnection
from loadtest.http_client import ClientError
from loadtest.outcome import Outcome

_WATCH_S = 0.1
_START_S = 0.02


@dataclass(frozen=True)
class Target:
    """A service and what it is asked, over and over: whole HTTP requests."""

    url: str
    requests: Sequence[bytes]

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ClientError(f"{self.url!r} is not a service's address, such as http://127.0.0.1:8080")
        return parts.hostname, parts.port or 80


@dataclass(frozen=True)
class Limits:
    """`connections` are opened at the start, up to `most` when more are needed; after `patience_s` without any reply a
    service counts as hung.

    `goes_on`: a service that hangs, or is not there any more, is no error; what it did not answer is counted."""

    connections: int = 32
    most: int = 512
    patience_s: float = 5.0
    goes_on: bool = False


class Seen(NamedTuple):
    """What came of one request: when it was due, sent and over, of `time.monotonic`, and its reply.

    For a reply there is a status; `LOST` means that the connection ended first, `UNANSWERED` that the run did, and
    `REFUSED` that there was no connection to be had.
    """

    request: bytes
    due: float
    sent: float
    over: float
    status: int
    body: bytes


LOST, UNANSWERED, REFUSED = 0, -1, -2
Witness = Callable[[Seen], None]


def open_loop(
    target: Target,
    times: Times,
    seconds: float,
    limits: Limits | None = None,
    witness: Witness | None = None,
    stopped: threading.Event | None = None,
) -> Outcome:
    """Sends a request at each of the times. Raises ClientError when the service is not there, dies or hangs.

    A `witness` sees each request's reply, whose body is then read. Once it is `stopped`, by another thread, no more are
    sent.
    """
    return _run(lambda: _Load(target, limits or Limits(), seconds, witness).at(times, stopped))


def closed_loop(target: Target, clients: int, seconds: float, limits: Limits | None = None) -> Outcome:
    """So many clients, each sending when it has its reply. Raises ClientError as `open_loop` does."""
    return _run(lambda: _Load(target, limits or Limits(), seconds).by(clients))


if hasattr(selectors, "EpollSelector"):

    class _PreciseSelector(selectors.EpollSelector):
        """epoll waits for whole milliseconds, which replies take too; select, of the epoll itself, does not."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)


class _Load:
    """One run. Listens to its connections."""

    def __init__(self, target: Target, limits: Limits, seconds: float, witness: Witness | None = None) -> None:
        self._target, self._limits, self._place = target, limits, target.place
        self._witness = witness
        self._connection = Connection if witness is None else ReadingConnection
        self._requests: Iterator[bytes] = cycle(target.requests)
        self._outcome = Outcome(seconds)
        self._all: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._due: deque[float] = deque()
        self._sent = 0
        self._is_closed_loop = False
        self._ends_at = self._heard_at = 0.0

    async def at(self, times: Times, stopped: threading.Event | None = None) -> Outcome:
        """The open loop."""
        await self._begin(self._limits.connections)
        start = time.monotonic() + _START_S
        self._ends_at, self._heard_at = start + self._outcome.seconds, start
        coming = deque((times + start).tolist())
        self._outcome.offered = len(coming)
        loop = asyncio.get_running_loop()

        def send_due() -> None:
            now = time.monotonic()
            while coming and coming[0] <= now:
                self._outcome.late.record(now - coming[0])
                self._send(coming.popleft())
            if coming:
                loop.call_at(coming[0], send_due)

        def is_over() -> bool:
            if stopped is not None and stopped.is_set():
                coming.clear()
                self._ends_at = min(self._ends_at, time.monotonic())
            return not coming and not self._is_waited_for

        loop.call_at(start, send_due)
        await self._watch(is_over)
        return self._end()

    async def by(self, clients: int) -> Outcome:
        """The closed loop."""
        self._is_closed_loop = True
        await self._begin(clients)
        now = time.monotonic()
        self._ends_at, self._heard_at = now + self._outcome.seconds, now
        for _ in range(clients):
            self._send(time.monotonic())
        await self._watch(lambda: time.monotonic() >= self._ends_at and not self._is_waited_for)
        self._outcome.offered = sum(self._outcome.statuses.values()) + self._outcome.lost + self._outcome.unanswered
        return self._end()

    @property
    def _is_waited_for(self) -> bool:
        return self._sent > 0 or bool(self._due)

    def _send(self, intended: float) -> None:
        if self._idle:
            self._sent += 1
            self._idle.popleft().send(next(self._requests), intended)
            return
        self._due.append(intended)
        if len(self._all) + len(self._connecting) < self._limits.most:
            self._connect()

    def _connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connected())
        self._connecting.add(task)

    async def _connected(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: self._connection(self), *self._place)
        except OSError:
            if not (self._limits.goes_on and self._outcome.statuses):
                raise
            self._refuse()
            return
        self._all.add(connection)
        self._outcome.connections = max(self._outcome.connections, len(self._all))
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        """Takes what is due, else waits; last in the row, so that all connections, and all workers, have their turn."""
        if self._due:
            self._sent += 1
            connection.send(next(self._requests), self._due.popleft())
        else:
            self._idle.append(connection)

    def _refuse(self) -> None:
        """What is due has no connection to wait for, and none is tried before the next is."""
        while self._due:
            self._outcome.lost += 1
            self._tell(next(self._requests), self._due.popleft(), REFUSED)

    def _tell(self, request: bytes, due: float, status: int) -> None:
        """Of one that was not sent."""
        if self._witness:
            now = time.monotonic()
            self._witness(Seen(request, due, now, now, status, b""))

    def _see(self, connection: Connection, intended: float, status: int) -> None:
        if self._witness and isinstance(connection, ReadingConnection):
            seen = Seen(connection.request, intended, connection.sent, time.monotonic(), status, connection.body)
            self._witness(seen)

    def replied(self, connection: Connection, status: int) -> None:
        """Counts a reply."""
        intended = connection.intended
        if intended is None:
            return
        connection.intended = None
        now = self._heard_at = time.monotonic()
        self._sent -= 1
        self._outcome.statuses[status] += 1
        self._see(connection, intended, status)
        if status == 200:
            self._outcome.latency.record(now - intended)
            self._outcome.degraded += connection.is_degraded
            self._outcome.in_time += now <= self._ends_at and not connection.is_degraded
        if self._is_closed_loop and now < self._ends_at:
            self._due.append(now)
        if connection.is_open:
            self._free(connection)

    def ended(self, connection: Connection) -> None:
        """Counts a request that was on its way as lost; another connection takes this one's place if it is needed."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.intended is not None:
            self._see(connection, connection.intended, LOST)
            connection.intended = None
            self._sent -= 1
            self._outcome.lost += 1
            if self._is_closed_loop and time.monotonic() < self._ends_at:
                self._due.append(time.monotonic())
        if self._due:
            self._connect()

    async def _begin(self, connections: int) -> None:
        for _ in range(connections):
            self._connect()
        await asyncio.wait(self._connecting)
        try:
            self._check_connecting()
        except ClientError:
            self._close()
            raise
        self._outcome.cpu_seconds = -time.process_time()

    async def _watch(self, is_over: Callable[[], bool]) -> None:
        """Until it is over, or what is waited for is given up. Raises ClientError when nothing is to be had."""
        patience = self._limits.patience_s
        try:
            while not is_over():
                await asyncio.sleep(_WATCH_S if time.monotonic() < self._ends_at else _WATCH_S / 10)
                self._check_connecting()
                now = time.monotonic()
                if now > self._ends_at + patience and self._outcome.statuses:
                    self._outcome.unanswered = self._sent + len(self._due)
                    break
                if (
                    not self._limits.goes_on
                    and self._is_waited_for
                    and now - self._heard_at > patience
                    and (now < self._ends_at or not self._outcome.statuses)
                ):
                    raise ClientError(
                        f"{self._target.url}: hangs: {self._sent + len(self._due)} requests are waiting, and nothing "
                        f"came for {patience:g} s"
                    )
        finally:
            self._close()

    def _check_connecting(self) -> None:
        done = {task for task in self._connecting if task.done()}
        self._connecting -= done
        # All are asked, because an error that nobody hears of is told at some later time.
        errors = [error for task in done if (error := task.exception())]
        if errors:
            raise ClientError(f"{self._target.url}: no connection: {errors[0]}") from errors[0]

    def _end(self) -> Outcome:
        self._outcome.cpu_seconds += time.process_time()
        return self._outcome

    def _close(self) -> None:
        """What comes from now on is not counted, nor is a connection opened in place of another."""
        self._is_closed_loop = False
        while self._due:
            self._tell(next(self._requests), self._due.popleft(), UNANSWERED)
        for task in self._connecting:
            if not task.cancel():
                task.exception()
        for connection in list(self._all):
            if connection.intended is not None:
                self._see(connection, connection.intended, UNANSWERED)
            connection.intended = None
            connection.close()


def _run(make: Callable[[], Coroutine[None, None, Outcome]]) -> Outcome:
    with _without_collection(), asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(make())


@contextmanager
def _without_collection() -> Iterator[None]:
    """A collection of garbage would be measured as the service's pause."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _new_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_PreciseSelector() if hasattr(selectors, "EpollSelector") else None)
