"""The listening socket: accepts connections up to the limit, over TLS if configured. Knows nothing of what connections
carry.
"""

import asyncio
import ctypes
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial

import structlog

from msd.contract.errors import MsdError
from service import limits
from service.http.inflight import Inflight, return_free_memory
from service.http.protocol import BoundedProtocol, Shortcut
from service.http.tls import open_tls
from service.settings import Settings
from service.telemetry.metrics import Metrics

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses reachable only from this machine."""
MAX_WAITING = 100
_BACKLOG = 2_048
_SO_ATTACH_FILTER = 26
# Maximum wait for a client to answer the close of its connection.
_GOODBYE_S = 2.0
# If every connection is busy, all are looked at again only after this time, however many more arrive.
_LOOK_AGAIN_S = 0.05


class Entry:
    """The listener and admission of connections."""

    def __init__(self, settings: Settings, metrics: Metrics, max_waiting: int = MAX_WAITING) -> None:
        """`max_waiting`: requests that may wait on a connection. Raises TlsError."""
        self._max_waiting = max_waiting
        self._settings = settings
        self._metrics = metrics
        self._tls = open_tls(settings, metrics)
        self._inflight = Inflight(max(limits.INFLIGHT_BYTES, settings.max_body_bytes))
        self._log = structlog.get_logger("msd.entry")
        self._arriving: dict[socket.socket, float] = {}
        """Arrival time of each connection in its TLS handshake; oldest first."""
        self._look_again_at = 0.0
        self._told_bytes = 0
        self._watching: asyncio.Task[None] | None = None

    def protocol(self, shortcut: Shortcut | None) -> Callable[..., BoundedProtocol]:
        """Return the factory of connections' protocols, given uvicorn's own arguments."""
        return partial(
            BoundedProtocol,
            settings=self._settings,
            metrics=self._metrics,
            inflight=self._inflight,
            shortcut=shortcut,
            max_waiting=self._max_waiting,
        )

    def open(self) -> None:
        if self._tls is not None:
            self._watching = asyncio.get_running_loop().create_task(self._tls.watch())

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def admit(
        self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol], others: Collection[asyncio.Protocol]
    ) -> bool:
        """Add a connection to the server, unless there are too many, or its client fails or has left."""
        if len(others) + len(self._arriving) >= self._settings.max_connections and not self._make_room(others):
            self._metrics.closed["full"].inc()
            return False
        self._arriving[connection] = time.monotonic()
        try:
            await self._connect(connection, protocol)
        except OSError as error:
            self._log.debug("connection_lost", reason=str(error))
            return False
        finally:
            self._arriving.pop(connection, None)
        return True

    def look_after(self, connections: Collection[asyncio.Protocol]) -> None:
        """Bound unread replies, and return free memory; called about once a second."""
        now = time.monotonic()
        unread = {
            connection: connection.judge_reader(now)
            for connection in connections
            if isinstance(connection, BoundedProtocol)
        }
        excess = sum(unread.values()) - self._inflight.limit
        for one in sorted(unread, key=unread.__getitem__, reverse=True) if excess > 0 else ():
            if excess > 0:
                excess -= unread[one]
                one.stop_writing()
        # The change, not the value: there may be another entry.
        self._metrics.inflight_bytes.inc(self._inflight.held - self._told_bytes)
        self._told_bytes = self._inflight.held
        if self._inflight.is_over():
            asyncio.get_running_loop().run_in_executor(None, return_free_memory)

    async def _connect(self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            await loop.connect_accepted_socket(protocol, connection)
            return
        try:
            await loop.connect_accepted_socket(
                protocol,
                connection,
                ssl=self._tls.value,
                ssl_handshake_timeout=limits.HEAD_TIMEOUT_S,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError:
            self._metrics.closed["handshake"].inc()
            raise

    def _make_room(self, others: Collection[asyncio.Protocol]) -> bool:
        """Close one connection for another, and return whether one was closed.

        In this order: the oldest without a request head; the oldest that waits for its client's next request; the
        oldest with an unfinished request.
        """
        silent, since = next(iter(self._inflight.silent.items()), (None, time.monotonic()))
        arriving, came = next(iter(self._arriving.items()), (None, since))
        if arriving is not None and (silent is None or came < since):
            del self._arriving[arriving]
            self._metrics.closed["made_room"].inc()
            with suppress(OSError):  # its client has left
                # Its end is what is read of it next.
                arriving.shutdown(socket.SHUT_RDWR)
            return True
        unfinished = (one for one in self._inflight.unfinished if not one.is_owed_replies)
        found = silent or self._idle(others) or next(unfinished, None)
        if found is not None:
            found.give_place()
        return found is not None

    def _idle(self, others: Collection[asyncio.Protocol]) -> BoundedProtocol | None:
        now = time.monotonic()
        if now < self._look_again_at:
            return None
        for other in others:
            if isinstance(other, BoundedProtocol) and other.is_idle and not other.transport.is_closing():
                return other
        self._look_again_at = now + _LOOK_AGAIN_S
        return None


def bind(host: str, port: int, is_shared: bool = False) -> socket.socket:
    """Return a bound socket that does not listen yet, exclusive or sharing its address. Raises MsdError if the address
    is unavailable."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise _refused(host, port, error) from error
    listener.setblocking(False)
    return listener


def listen(listener: socket.socket) -> tuple[str, int]:
    """Start listening, and log where. Raises MsdError if another process was faster."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error
    return host, port


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        yield connection


def refuse_new(listener: socket.socket) -> None:
    """Make the kernel drop new connections between the last accept and the close of the listener.

    A one-line packet filter, `return 0`; where filters are unavailable, the gap is a few microseconds.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(instruction)))
    except OSError:
        return


def _refused(host: str, port: int, error: Exception) -> MsdError:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return MsdError(f"cannot listen on {host} port {port}: {reason}")
