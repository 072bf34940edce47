"""Load generator: sends requests over many keep-alive connections, when they are due (open loop) or when a few clients
get replies (closed loop), and counts the outcomes.

In the open loop a request that waits for the service, for a connection or for this process is timed from when it was
due, so no stall is left out.

Other generators do not fit: Locust's users wait for their replies, which is a closed loop; k6, vegeta and wrk2 keep a
rate, but have neither Poisson arrivals nor bursts. None distinguishes a degraded reply from a whole one, and scenarios
have to see every reply, in this process, while they break the service. The timers of asyncio and uvloop end at whole
milliseconds, which is as long as replies take.
"""

import gc
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle
from select import select
from typing import NamedTuple

from loadtest.connection import Address, Connection
from loadtest.http_client import ClientError, host_and_port
from loadtest.outcome import Outcome
from loadtest.promptness import prompt
from loadtest.traffic import Times

_WATCH_S = 0.1
_START_S = 0.02
# Waking up costs several times as much CPU as a request or a reply, and takes it from a service on the same cores. The
# open loop therefore wakes at most this often; reported times include the delay.
_REST_S = 0.0005
_SELECTABLE = 1_024  # FD_SETSIZE


@dataclass(frozen=True)
class Target:
    """A service and its requests, repeated: whole HTTP requests."""

    url: str
    requests: Sequence[bytes]

    @property
    def place(self) -> tuple[str, int]:
        """Host and port. Raises ClientError for anything but an http address."""
        return host_and_port(self.url)

    @property
    def bodies(self) -> list[bytes]:
        """Return the requests' bodies."""
        return [request.partition(b"\r\n\r\n")[2] for request in self.requests]


@dataclass(frozen=True)
class LoadLimits:
    """`connections` are opened at the start, up to `most` when more are needed; after `patience_s` without any reply a
    service counts as hung.

    `goes_on`: a hung or absent service is not an error; unanswered requests are counted.
    """

    connections: int = 32
    most: int = 512
    patience_s: float = 5.0
    goes_on: bool = False


class Seen(NamedTuple):
    """Outcome of one request: when it was due, sent and over, by `time.monotonic`, and its reply.

    A reply has a status; `LOST` means that the connection ended first, `UNANSWERED` that the run did, and `REFUSED`
    that no connection was available.
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
    limits: LoadLimits | None = None,
    witness: Witness | None = None,
    stopped: threading.Event | None = None,
) -> Outcome:
    """Send a request at each time.

    Raises ClientError if the service is unreachable, dies or hangs. A `witness` gets each request and its reply. Once
    another thread has `stopped` it, no more are sent.
    """
    with prompt(), _without_collection(), closing(_Load(target, limits or LoadLimits(), seconds, witness)) as load:
        return load.at(times, stopped)


def closed_loop(target: Target, clients: int, seconds: float, limits: LoadLimits | None = None) -> Outcome:
    """Run clients that send when they have a reply. Raises ClientError as `open_loop` does."""
    with prompt(), _without_collection(), closing(_Load(target, limits or LoadLimits(), seconds)) as load:
        return load.by(clients)


class _Load:
    """One run, with the callbacks of its connections."""

    def __init__(self, target: Target, limits: LoadLimits, seconds: float, witness: Witness | None = None) -> None:
        self._target, self._limits, self._place = target, limits, target.place
        self._witness = witness
        self._requests: Iterator[bytes] = cycle(target.requests)
        self._outcome = Outcome(seconds)
        self._watch = selectors.DefaultSelector()
        self._all: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._connecting: set[Connection] = set()
        self._error: OSError | None = None
        self._due: deque[float] = deque()
        self._sent = 0
        self._turned_at = 0.0
        self._is_closed_loop = False
        self._ends_at = self._heard_at = 0.0

    def at(self, times: Times, stopped: threading.Event | None = None) -> Outcome:
        """The open loop."""
        start = self._begin(self._limits.connections)
        coming = deque((times + start).tolist())
        self._outcome.offered = len(coming)
        self._run(coming, stopped)
        return self._outcome

    def by(self, clients: int) -> Outcome:
        """The closed loop."""
        self._is_closed_loop = True
        start = self._begin(clients)
        for _ in range(clients):
            self._send(start)
        self._run(deque())
        self._outcome.offered = sum(self._outcome.statuses.values()) + self._outcome.lost + self._outcome.unanswered
        return self._outcome

    def _run(self, coming: deque[float], stopped: threading.Event | None = None) -> None:
        """Send what is `coming` when it is due, and what replies cause, until none is waited for."""
        looks_at = 0.0
        while True:
            now = time.monotonic()
            while coming and coming[0] <= now:
                self._outcome.late.record(now - coming[0])
                self._send(coming.popleft())
            if now >= looks_at:
                if stopped is not None and stopped.is_set():
                    coming.clear()
                    self._ends_at = min(self._ends_at, now)
                if (not coming and not self._is_waited_for) or self._is_given_up(now):
                    break
                looks_at = now + (_WATCH_S if now < self._ends_at else _WATCH_S / 10)
            self._turn(min(looks_at, coming[0]) if coming else looks_at)
        self._outcome.cpu_seconds += time.process_time()

    @property
    def _is_waited_for(self) -> bool:
        return self._sent > 0 or bool(self._due)

    def _send(self, intended: float) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.has_ended:
                continue
            self._sent += 1
            connection.send(next(self._requests), intended)
            return
        self._due.append(intended)
        if len(self._all) + len(self._connecting) < self._limits.most:
            self._connect()

    def _turn(self, until: float) -> None:
        """Handle sockets until a time."""
        if not self._is_closed_loop and (rest := self._turned_at + _REST_S - time.monotonic()) > 0:
            time.sleep(rest)
        for key, events in self._ready(until - time.monotonic()):
            key.data(events)
        self._turned_at = time.monotonic()

    def _ready(self, left_s: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the sockets that are ready, at the latest after some seconds."""
        # epoll waits whole milliseconds, which is as long as replies take; select on the epoll descriptor is finer, but
        # cannot have one beyond the first 1,024 of the process.
        if self._watch.fileno() >= _SELECTABLE:
            return self._watch.select(max(0.0, left_s))
        if left_s <= 0 or select([self._watch], [], [], left_s)[0]:
            return self._watch.select(0)
        return []

    def _connect(self) -> None:
        try:
            self._connecting.add(Connection(self._address, self._watch, self))
        except OSError as error:
            self._cannot(error)

    def opened(self, connection: Connection) -> None:
        """A connection opened."""
        self._connecting.discard(connection)
        self._all.add(connection)
        self._outcome.connections = max(self._outcome.connections, len(self._all))
        self._free(connection)

    def _cannot(self, error: OSError) -> None:
        """No connection is available."""
        if self._limits.goes_on and self._outcome.statuses:
            self._refuse()
        else:
            self._error = error

    def _free(self, connection: Connection) -> None:
        """Take a due request, otherwise queue up last, so that all connections have their turn."""
        if self._due and not connection.has_ended:
            self._sent += 1
            connection.send(next(self._requests), self._due.popleft())
        else:
            self._idle.append(connection)

    def _refuse(self) -> None:
        """Refuse a due request: no connection is open, and none is tried before the next is due."""
        while self._due:
            self._outcome.lost += 1
            self._tell(self._due.popleft(), REFUSED)

    def _tell(self, due: float, status: int, sent_by: Connection | None = None) -> None:
        """Report a request's outcome; without a connection it was not sent."""
        if self._witness:
            now, by = time.monotonic(), sent_by
            sent = (next(self._requests), now, b"") if by is None else (by.request, by.sent, by.body)
            self._witness(Seen(sent[0], due, sent[1], now, status, sent[2]))

    def replied(self, connection: Connection, status: int) -> None:
        """Count a reply."""
        intended = connection.intended
        if intended is None:
            return
        connection.intended = None
        now = self._heard_at = time.monotonic()
        self._sent -= 1
        self._outcome.statuses[status] += 1
        self._tell(intended, status, connection)
        if status == 200:
            self._outcome.latency.record(now - intended)
            is_degraded = connection.is_degraded
            self._outcome.degraded += is_degraded
            self._outcome.in_time += now <= self._ends_at and not is_degraded
        if self._is_closed_loop and now < self._ends_at:
            self._due.append(now)
        if connection.is_open:
            self._free(connection)

    def ended(self, connection: Connection, error: OSError | None) -> None:
        """Count a request in flight as lost; another connection replaces this one if needed."""
        self._connecting.discard(connection)
        if error is not None:
            self._cannot(error)
            return
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.intended is not None:
            self._tell(connection.intended, LOST, connection)
            connection.intended = None
            self._sent -= 1
            self._outcome.lost += 1
            if self._is_closed_loop and time.monotonic() < self._ends_at:
                self._due.append(time.monotonic())
        if self._due:
            self._connect()

    def _begin(self, connections: int) -> float:
        """Open the connections, and return when the run starts."""
        self._address = self._found()
        for _ in range(connections):
            self._connect()
        while self._connecting and self._error is None:
            self._turn(time.monotonic() + _WATCH_S)
        self._check_connecting()
        self._outcome.cpu_seconds = -time.process_time()
        start = time.monotonic() + (0.0 if self._is_closed_loop else _START_S)
        self._ends_at, self._heard_at = start + self._outcome.seconds, start
        return start

    def _found(self) -> Address:
        """Return the service's address: the first of its name that answers."""
        try:
            known = socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM)
            if len(known) == 1:
                return Address(known[0][0], known[0][4])
            with socket.create_connection(self._place) as probe:
                return Address(probe.family, probe.getpeername())
        except OSError as error:
            raise ClientError(f"{self._target.url}: no connection: {error}") from error

    def _is_given_up(self, now: float) -> bool:
        """Return whether to stop waiting for replies. Raises ClientError if the service is unreachable."""
        self._check_connecting()
        patience = self._limits.patience_s
        if now > max(self._ends_at, self._heard_at) + patience and self._outcome.statuses:
            self._outcome.unanswered = self._sent + len(self._due)
            return True
        is_early = now < self._ends_at or not self._outcome.statuses
        if self._is_waited_for and now - self._heard_at > patience and is_early and not self._limits.goes_on:
            raise ClientError(
                f"{self._target.url}: hangs: {self._sent + len(self._due)} requests are waiting, and nothing "
                f"came for {patience:g} s"
            )
        return False

    def _check_connecting(self) -> None:
        if self._error is not None:
            raise ClientError(f"{self._target.url}: no connection: {self._error}") from self._error

    def close(self) -> None:
        """Close: further replies are not counted, and no connection is reopened."""
        self._is_closed_loop = False
        while self._due:
            self._tell(self._due.popleft(), UNANSWERED)
        for connection in self._connecting:
            connection.close()
        for connection in list(self._all):
            if connection.intended is not None:
                self._tell(connection.intended, UNANSWERED, connection)
            connection.intended = None
            connection.close()
        self._watch.close()


@contextmanager
def _without_collection() -> Iterator[None]:
    """A garbage collection would be measured as the service's pause."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
