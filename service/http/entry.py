"""Lets connections in: as many as there may be, over TLS where that is asked for, and ends those that are not read.

Does not know what is said on them.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Collection

import structlog

from service.http.protocol import BoundedProtocol
from service.http.tls import open_tls
from service.settings import Settings
from service.telemetry.metrics import Metrics

# A client that does not answer when its connection is closed is not waited for any longer.
_GOODBYE_S = 2.0


class Entry:
    """The entry of the service."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises TlsError."""
        self._tls = open_tls(settings, metrics)
        self._handshake_s = settings.head_timeout_ms / 1000
        self._max_connections = settings.max_connections
        self._metrics = metrics
        self._shaking_hands = 0
        self._watching: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("msd.entry")

    def open(self) -> None:
        """From now on certificates are those of the files."""
        if self._tls is not None:
            self._watching = asyncio.get_running_loop().create_task(self._tls.watch())

    def close(self) -> None:
        """Nobody is let in any more."""
        if self._watching is not None:
            self._watching.cancel()

    async def admit(
        self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol], others: Collection[asyncio.Protocol]
    ) -> bool:
        """Makes a connection one of the server's, unless there are too many, or its client fails, or has left."""
        if len(others) + self._shaking_hands >= self._max_connections and not self._make_room(others):
            self._metrics.closed["full"].inc()
            return False
        try:
            await self._connect(connection, protocol)
        except OSError as error:
            self._log.debug("connection_lost", reason=str(error))
            return False
        return True

    def judge_readers(self, connections: Collection[asyncio.Protocol]) -> None:
        """Ends connections whose clients do not take their replies; about once a second."""
        now = time.monotonic()
        for one in tuple(connections):
            if isinstance(one, BoundedProtocol):
                one.judge_reader(now)

    async def _connect(self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            await loop.connect_accepted_socket(protocol, connection)
            return
        self._shaking_hands += 1
        try:
            await loop.connect_accepted_socket(
                protocol,
                connection,
                ssl=self._tls.value,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError:
            self._metrics.closed["handshake"].inc()
            raise
        finally:
            self._shaking_hands -= 1

    def _make_room(self, others: Collection[asyncio.Protocol]) -> bool:
        """Closes one that waits for nothing but its client's next request; whether there was one."""
        for one in others:
            if isinstance(one, BoundedProtocol) and one.is_idle and not one.transport.is_closing():
                self._metrics.closed["made_room"].inc()
                one.transport.close()
                return True
        return False
