"""The service's TLS: certificate, key and, for mutual TLS, the authority of client certificates. Knows no
connections.
"""

import os
import ssl
from pathlib import Path

from msd.contract.errors import MsdError
from msd.contract.files import open_regular
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.watched_files import WatchedFiles


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
