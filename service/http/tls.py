"""Values that are made of files, and made anew when these change, without a restart; and the TLS of the service:
certificate, key and, for mutual TLS, the authority whose clients are let in. Does not know connections.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from prometheus_client import Gauge

from msd.contract.errors import MsdError
from service.settings import Settings
from service.telemetry.metrics import Metrics

PERIOD_S = 1.0
_T = TypeVar("_T")
_Stamp = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[_T]):
    """`value` is the latest that could be made; `stale` is 1 while the files as they are make none: half-written,
    malformed or gone, they leave the value as it was."""

    def __init__(self, name: str, paths: Sequence[Path], make: Callable[[], _T], stale: Gauge) -> None:
        """Raises the MsdError that says why the first cannot be made."""
        self._name, self._paths, self._make, self._stale = name, paths, make, stale
        # Before they are read: what changes meanwhile is seen at the next look.
        self._stamp = _stamp(paths)
        self.value = make()
        self._reason = ""
        self._log = structlog.get_logger("msd.watched")

    def look(self) -> None:
        """Makes the value anew if a file has changed since, or could not be used the last time."""
        stamp = _stamp(self._paths)
        if stamp == self._stamp and not self._reason:
            return
        self._stamp = stamp
        try:
            self.value = self._make()
        except MsdError as error:
            # Of several files the first may be new already, and the others not yet: the next look will tell.
            if str(error) != self._reason:
                self._log.error("not_reloaded", what=self._name, reason=f"{error}; what was read before stays in use")
            self._reason = str(error)
        else:
            self._reason = ""
            self._log.info("reloaded", what=self._name)
        self._stale.set(bool(self._reason))

    async def watch(self) -> None:
        """Looks once a second, for ever. In a thread, because a file system may let its readers wait."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await asyncio.to_thread(self.look)


def _stamp(paths: Sequence[Path]) -> _Stamp:
    """What changes when a file does, or is replaced, or a link on the way to it leads elsewhere."""
    return tuple(map(_stamp_of, paths))


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


class TlsError(MsdError):
    """The files do not make a server's TLS."""


def open_tls(settings: Settings, metrics: Metrics) -> Watched[ssl.SSLContext] | None:
    """What new connections are to speak, None for plain HTTP. Raises TlsError."""
    certificate, key, authority = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    paths = [certificate, key, *([authority] if authority else [])]
    return Watched("tls", paths, lambda: server_context(certificate, key, authority), metrics.tls_stale)


def check_tls(settings: Settings) -> None:
    """Raises TlsError where TLS is asked for and cannot be had."""
    if settings.tls_cert is not None and settings.tls_key is not None:
        server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def server_context(certificate: Path, key: Path, authority: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; with an authority, only for clients with a certificate of it. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Each new handshake would cost us more than the client that asks for it.
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
        path.open("rb").close()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror or error}") from None


def _said(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)


def _ask_nobody() -> str:
    """For OpenSSL would else ask at the terminal, and wait."""
    raise TlsError("MSD_TLS_KEY: the private key is encrypted; decrypt it (openssl pkey)")
