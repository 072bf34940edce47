"""HTTP client of commands that ask a running service.

Uses only the standard library, and no proxy of the environment.
"""

import http.client
import json
import ssl
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

import typer

from msd.contract.errors import MsdError
from service.http.entry import LOOPBACK

_TIMEOUT_S = 10.0
_MAX_BYTES = 2**24

# Options of the commands.
KeyFile = Annotated[Path | None, typer.Option(help="File that holds only an API key for --url.")]
Ca = Annotated[Path | None, typer.Option(help="Certificate authorities (PEM) to trust for --url.")]
Cert = Annotated[Path | None, typer.Option(help="Client certificate (PEM) for mutual TLS.")]
CertKey = Annotated[Path | None, typer.Option(help="Private key (PEM) of --cert.")]


class CannotAsk(MsdError):
    """The service did not answer."""


class HttpAnswer(NamedTuple):
    """Status, headers, body, and arrival time in Unix seconds."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    at: float

    def json(self) -> dict[str, Any]:
        """Return the body's JSON object, empty if it is not one."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Does not follow redirects: the commands are about the service itself."""

    def redirect_request(self, *_: object) -> None:
        """Return None: no redirect."""


class ServiceClient:
    """Client of one service. The key comes from a file, because arguments are visible to all users."""

    def __init__(self, url: str, key_file: Path | None, tls: ssl.SSLContext) -> None:
        """Raises CannotAsk if the URL or the file is invalid."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or parts.scheme not in ("http", "https"):
            raise CannotAsk("not a service's URL; expected for example http://127.0.0.1:8080")
        self.is_local = host in LOOPBACK
        self._url = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port or ''}"
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls), _NoRedirects()
        )
        self._key = None if key_file is None else _read_key(key_file)

    def ask(self, path: str, body: bytes | None = None, with_key: bool = True) -> HttpAnswer:
        """Send a GET, or a POST with a body. Raises CannotAsk."""
        request = urllib.request.Request(self._url + path, body, {"Content-Type": "application/json"} if body else {})
        if with_key and self._key is not None:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            try:
                reply = self._opener.open(request, timeout=_TIMEOUT_S)
            except HTTPError as error:
                reply = error
            with reply:
                return HttpAnswer(reply.status, reply.headers, reply.read(_MAX_BYTES), time.time())
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            reason = getattr(why, "strerror", None) or str(why) or type(why).__name__
            raise CannotAsk(f"{self._url}: no answer: {reason}") from None


def tls_of(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return the TLS context for an https URL. Raises CannotAsk."""
    if key is not None and cert is None:
        raise CannotAsk("--cert-key: needs --cert, the certificate of this key")
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise CannotAsk(f"--ca, --cert, --cert-key: {error.strerror or error}") from None
    return context


def _read_key(path: Path) -> str:
    try:
        key = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise CannotAsk(f"--key-file {path}: {getattr(error, 'strerror', None) or 'not a key'}") from None
    # As part of a header it must be one word.
    if not key.isprintable() or len(key.split()) != 1:
        raise CannotAsk(f"--key-file {path}: not a key; expected only one key, on one line")
    return key
