"""TLS: certificate, key and, for mutual TLS, the authority of client certificates; and connections, accepted and
decrypted here, which the native front reads from a pair of sockets.
"""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import cast

import structlog

from msd.contract.errors import MsdError
from msd.contract.files import open_regular
from native import core
from service import limits
from service.http.entry import accepted
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.watched_files import WatchedFiles

# Maximum wait for a client to answer the close of its connection.
_GOODBYE_S = 2.0
_LINGER_S = 1.0
_ACCEPT_AGAIN_S = 0.5
_AT_ONCE = 64


class TlsError(MsdError):
    """The TLS files are unusable."""


def open_tls(settings: Settings, metrics: Metrics) -> WatchedFiles[ssl.SSLContext] | None:
    """Return the TLS of new connections, None for plain HTTP. Raises TlsError."""
    certificate, key, authority = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    paths = [certificate, key, *([authority] if authority else [])]
    gauges = metrics.tls_stale, metrics.watched_ages["tls"]
    return WatchedFiles("tls", paths, lambda: server_context(certificate, key, authority), *gauges)


def check_tls(settings: Settings) -> None:
    """Raise TlsError if TLS is configured and unusable."""
    if settings.tls_cert is not None and settings.tls_key is not None:
        server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def server_context(certificate: Path, key: Path, authority: Path | None) -> ssl.SSLContext:
    """Return a context for TLS 1.2 or newer; with an authority, only for clients with a certificate of it. Raises
    TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation costs the server more than the client.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    for path in (certificate, key):
        _readable(path)
    try:
        context.load_cert_chain(certificate, key, password=_ask_nobody)
    except OSError as error:
        raise TlsError(
            f"MSD_TLS_CERT={certificate}, MSD_TLS_KEY={key}: {_said(error)}; expected a PEM chain and its private key"
        ) from None
    if authority is not None:
        _readable(authority)
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise TlsError(f"MSD_TLS_CLIENT_CA={authority}: {_said(error)}; expected PEM certificates") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _readable(path: Path) -> None:
    try:
        os.close(open_regular(path))
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from None


def _said(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _ask_nobody() -> str:
    """Otherwise OpenSSL would prompt at the terminal, and wait."""
    raise TlsError("MSD_TLS_KEY: the private key is encrypted; decrypt it (openssl pkey)")


class TlsEntry:
    """Accepts connections up to the limit. For the event loop."""

    def __init__(
        self,
        tls: WatchedFiles[ssl.SSLContext],
        front: "core.Front",
        max_connections: int,
        metrics: Metrics,
    ) -> None:
        self._tls, self._front, self._metrics = tls, front, metrics
        self._max_connections = max_connections
        self._arriving: dict[socket.socket, asyncio.Task[None]] = {}
        """Connections in their TLS handshake; oldest first."""
        self._watching: asyncio.Task[None] | None = None
        self._log = structlog.get_logger("msd.entry")

    def open(self, listener: socket.socket) -> None:
        self._listener, self._loop = listener, asyncio.get_running_loop()
        self._watching = self._loop.create_task(self._tls.watch())
        self._watch()

    async def close(self) -> None:
        """Accept the connections that the kernel has queued, then close the listener."""
        if self._listener.fileno() < 0:
            return
        self._take_in(None)
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._arriving:  # silent clients are not waited for
            await asyncio.wait(self._arriving.values(), timeout=_LINGER_S)
        if self._watching is not None:
            self._watching.cancel()

    def _watch(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._take_in)

    def _take_in(self, most: int | None = _AT_ONCE) -> None:
        """Accept up to this many waiting connections, or all."""
        try:
            for connection in islice(accepted(self._listener), most):
                if len(self._arriving) + self._front.connections >= self._max_connections:
                    self._make_room()
                task = self._loop.create_task(self._connect(connection))
                self._arriving[connection] = task
        except OSError as error:
            # Too many open files, or no memory: connections stay in the backlog for a while.
            self._log.error("cannot_accept", reason=error.strerror)
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_ACCEPT_AGAIN_S, self._watch)

    def _make_room(self) -> None:
        """Close the oldest connection in its handshake; else the front closes another."""
        oldest = next(iter(self._arriving), None)
        if oldest is None:
            self._front.make_room()
            return
        del self._arriving[oldest]
        self._metrics.closed["made_room"].inc()
        with suppress(OSError):  # its client has left
            # Its end is what is read of it next.
            oldest.shutdown(socket.SHUT_RDWR)

    async def _connect(self, connection: socket.socket) -> None:
        outer = _Side()
        try:
            await self._loop.connect_accepted_socket(
                lambda: outer,
                connection,
                ssl=self._tls.value,
                ssl_handshake_timeout=limits.HEAD_TIMEOUT_S,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError as error:
            self._metrics.closed["handshake"].inc()
            self._log.debug("connection_lost", reason=str(error))
            connection.close()
            return
        finally:
            self._arriving.pop(connection, None)
        try:
            ours, fronts = socket.socketpair()
        except OSError as error:
            self._log.error("cannot_accept", reason=error.strerror)
            assert outer.transport is not None, "it is there"
            outer.transport.abort()
            return
        ours.setblocking(False)
        fronts.setblocking(False)
        inner = _Side()
        inner.other, outer.other = outer, inner
        await self._loop.create_connection(lambda: inner, sock=ours)
        inner.go_on()
        self._front.adopt(fronts.detach(), True)
        outer.go_on()


class _Side(asyncio.Protocol):
    """One side of a connection; passes what comes to the other, no faster than that takes it."""

    other: "_Side"

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._came: list[bytes] = []
        self._passes = self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        # What came before goes first.
        if self._passes and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self._came.append(data)

    def go_on(self) -> None:
        """Pass what came before the other side was there, and what comes."""
        assert self.other.transport is not None, "it is there"
        self._passes = True
        for data in self._came:
            self.other.transport.write(data)
        self._came.clear()
        if self._is_lost:
            self.other.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if hasattr(self, "other") and self.other.transport is not None:
            self.other.transport.close()

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()
